"""What the operator may say to the node, and what came of it."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

VERBS: Texts = {
    "verb.pause": Text("Pause now", "立即暂停"),
    "verb.pause-means": Text(
        "No new attempt is joined. What is in hand goes to its end. Rounds may end without you.",
        "不再加入新的尝试。正在进行的会完成。轮次可能在没有您的情况下结束。",
    ),
    "verb.resume": Text("Go on", "继续"),
    "verb.leave": Text("Leave a study…", "退出研究…"),
    "verb.leave-round": Text("Leave after this round", "本轮后退出"),
    "verb.leave-now": Text("Withdraw at once", "立即撤回"),
    "verb.leave-means": Text(
        "This round is finished as agreed. Then the approval is taken back.",
        "按约定完成本轮，然后撤回批准。",
    ),
    "verb.leave-lost": Text(
        "This hospital sends nothing more for the study. Only a new approval takes part again.",
        "本院不再为该研究发送任何内容。只有重新批准才能再次参加。",
    ),
    "verb.leave-stays": Text(
        "What was sent stays in the sums that are out; what was charged stays charged. The others go on.",
        "已发送的内容保留在已公布的总和中；已扣除的隐私预算不退还。其他医院继续。",
    ),
    "verb.reason": Text(
        "Reason; the admin and whoever may read the study see it. Nothing about a patient.",
        "理由；管理员和有权阅读该研究的人会看到。请勿写任何患者信息。",
    ),
    "verb.stop": Text("Stop…", "停止…"),
    "verb.stop-now": Text("Stop the node now", "立即停止节点"),
    "verb.stop-means": Text("Ends the node's process. Asks you again first.", "结束节点进程。会先再次询问。"),
    "verb.stop-lost": Text(
        "Training ends at once and nothing of this round is sent. What was charged for it stays spent.",
        "训练立即结束，本轮不发送任何内容。已为本轮扣除的预算不退还。",
    ),
    "verb.stop-again": Text(
        "The other hospitals go on. To take part again, start the node by hand; a service may do so.",
        "其他医院继续。要再次参加，请手动启动节点。系统服务可能会自动启动它。",
    ),
    "verb.sure": Text("I want this node to end now.", "我确认现在停止此节点。"),
    "card.refuse": Text("Refuse…", "拒绝…"),
    "card.refuse-now": Text("Refuse this plan", "拒绝此计划"),
    "stands.left": Text("not taking part", "不参加"),
    "requests.word": Text("This hospital's reason:", "本院的理由："),
    "event.paused": Text("paused", "暂停"),
    "event.resumed": Text("resumed", "继续"),
    "event.leaving": Text("leaves after the round", "本轮后退出"),
    "event.withdrawn": Text("approval taken back", "撤回批准"),
    "event.stopping": Text("node stopped", "停止节点"),
    "event.refused-plan": Text("plan refused", "拒绝计划"),
    "event.examined": Text("everything examined", "全面检查"),
    "notice.paused": Text(
        "Paused. No new attempt is joined until you go on.", "已暂停。在您继续之前不会加入新的尝试。"
    ),
    "notice.resumed": Text("This hospital takes part again.", "本院重新参加。"),
    "notice.leaving": Text(
        "Noted. The approval is taken back after this round; at once if none is in hand.",
        "已记录。本轮结束后撤回批准；如没有进行中的轮次，则立即撤回。",
    ),
    "notice.withdrawn": Text(
        "The approval is taken back. Nothing more is sent for the study.",
        "批准已撤回。不再为该研究发送任何内容。",
    ),
    "notice.stopping": Text("The node ends within a few seconds.", "节点将在几秒内停止。"),
    "notice.refused-plan": Text(
        "The plan is refused; the admin will read your reason.", "计划已拒绝；管理员会看到您的理由。"
    ),
    "notice.examined": Text("Everything was examined; see below.", "检查完成；见下。"),
    "health.examine": Text("Examine everything now", "立即全面检查"),
    "health.examined": Text("Examined", "检查时间"),
}
