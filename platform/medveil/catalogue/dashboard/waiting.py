"""What a study waits for, in a sentence."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "waits.round": Text("Round {round}", "第 {round} 轮"),
    "waits.evaluation": Text("The final evaluation", "最终评估"),
    "waits.attempt": Text("{which}, attempt {attempt},", "{which}（第 {attempt} 次尝试）"),
    "waits.more": Text("{count} more", "另外 {count} 家"),
    "waits.and": Text("{first} and {last}", "{first}和{last}"),
    "waits.comma": Text(",\u00a0", "、"),
    "waits.hospitals": Text("{which} waits for {names}: {doing}", "{which}正在等待{names}：{doing}"),
    "waits.phase-end": Text(
        "{which} waits for the end of a phase ({doing}): nobody in reach is missing",
        "{which}等待本阶段（{doing}）结束：在线的医院都已答复",
    ),
    "waits.deadline": Text(", deadline in {left}", "，距截止还有 {left}"),
    "waits.again": Text(", in {left}", "，{left}后"),
    "waits.approvals": Text(
        "The study waits for {count} more approvals, from {names}",
        "研究还在等待 {count} 份批准，来自{names}",
        one="The study waits for one more approval, from {names}",
    ),
    "waits.reach": Text(
        "{which} waits until {need} hospitals are in reach, now {answered}; missing: {names}",
        "{which}等待 {need} 家医院在线，目前 {answered} 家；缺少：{names}",
    ),
    "waits.sum": Text("{which} waits for the aggregator, which opens the sum", "{which}等待聚合方开启总和"),
    "waits.trouble": Text(
        "{which} waits: its sum cannot be published yet ({reason})",
        "{which}等待中：总和尚无法发布（{reason}）",
    ),
    "waits.giving-up": Text(
        "{which} has failed and waits until {need} hospitals give it up, now {answered}; missing: {names}",
        "{which}已失败，等待 {need} 家医院放弃，目前 {answered} 家；缺少：{names}",
    ),
    "waits.giving-up-all": Text(
        "{which} has failed and waits until {need} hospitals give it up, now {answered}",
        "{which}已失败，等待 {need} 家医院放弃，目前 {answered} 家",
    ),
    "waits.failures": Text(
        "{which} is tried again, for the last attempts failed at their beginning",
        "{which}将重新尝试，因为最近几次在开始时失败",
    ),
    "waits.next-round": Text("{which} is about to open", "{which}即将开始"),
    "waits.paused": Text("The study is paused by the admin: {reason}", "管理员已暂停研究：{reason}"),
    "waits.stopping": Text(
        "The study ends with this round, by the admin's word: {reason}", "管理员决定本轮结束后停止：{reason}"
    ),
    "waits.stopped": Text("The study was stopped by the admin: {reason}", "管理员已停止研究：{reason}"),
    "waits.withdrawn": Text("The study was withdrawn by the admin: {reason}", "管理员已撤回研究：{reason}"),
    "waits.finished": Text("The study is over and waits for nothing", "研究已结束，无需等待"),
    "waits.too-few-left": Text(
        "The study ended early: {count} of {invited} hospitals take no part ({names}); a round takes {need}",
        "研究提前结束：{invited} 家医院中有 {count} 家不参加（{names}），而一轮需要 {need} 家",
        one="The study ended early: one of {invited} hospitals takes no part ({names}); a round takes {need}",
    ),
    "waits.ended-early": Text(
        "The study ended early, after round {round}: {reason}", "研究在第 {round} 轮后提前结束：{reason}"
    ),
    "waits.ended-early-why": Text(
        "The study ended early, after round {round}", "研究在第 {round} 轮后提前结束"
    ),
    "waits.roster-approvals": Text(
        "Roster {epoch} waits for {count} more approvals, from {names}; until then plan {plan} works",
        "第 {epoch} 版名单还在等待 {count} 份批准，来自{names}；在此之前由计划 {plan} 继续",
        one="Roster {epoch} waits for one more approval, from {names}; until then plan {plan} works",
    ),
    "waits.takeover": Text(
        "Roster {epoch} is approved and takes over between two attempts of plan {plan}",
        "第 {epoch} 版名单已获批准，将在计划 {plan} 的两次尝试之间接替",
    ),
    "waits.takeover-reach": Text(
        "Roster {epoch} takes over when {need} of its hospitals are in reach, now {answered}; "
        "until then plan {plan} works",
        "第 {epoch} 版名单将在 {need} 家医院在线时接替，目前 {answered} 家；在此之前由计划 {plan} 继续",
    ),
    "waits.takeover-halted": Text(
        "Roster {epoch} takes over when the study goes on; the admin has halted plan {plan}: {reason}",
        "研究恢复后由第 {epoch} 版名单接替；管理员已暂停计划 {plan}：{reason}",
    ),
    "waits.takeover-refused": Text(
        "Roster {epoch} cannot take over: {count} of its {invited} hospitals take no part ({names}), "
        "and a round takes {need}; plan {plan} works",
        "第 {epoch} 版名单无法接替：其 {invited} 家医院中有 {count} 家不参加（{names}），"
        "而一轮需要 {need} 家；由计划 {plan} 继续",
        one="Roster {epoch} cannot take over: one of its {invited} hospitals takes no part ({names}), "
        "and a round takes {need}; plan {plan} works",
    ),
    "waits.amended": Text(
        "Roster {epoch} has taken over and goes on as plan {plan}",
        "第 {epoch} 版名单已接替，以计划 {plan} 继续",
    ),
    "waits.set-aside": Text(
        "Roster {epoch} never took over: another one did, or the study was over",
        "第 {epoch} 版名单未曾接替：已有其他名单接替，或研究已结束",
    ),
    "waits.quorum": Text(
        "{answered} of {invited} have answered, more than the {need} that it takes.",
        "{invited} 家中已有 {answered} 家答复，已达到所需的 {need} 家。",
    ),
    "waits.no-quorum": Text(
        "{answered} of {invited} have answered; it takes {need}.",
        "{invited} 家中已有 {answered} 家答复；需要 {need} 家。",
    ),
    "waits.heard": Text("{name} was heard from {ago}.", "{name} 最近一次联系：{ago}。"),
    "waits.unknown": Text(
        "Who is in reach is not known here: the process that leads does not tell it.",
        "此处不知道哪些医院在线：主进程没有提供。",
    ),
    "doing.advertise": Text("its keys", "发送密钥"),
    "doing.share": Text("its shares for the others", "为其他医院分发份额"),
    "doing.commit": Text("training", "训练"),
    "doing.score": Text("scoring", "评估"),
    "doing.upload": Text("its masked upload", "加掩码的上传"),
    "doing.agree": Text("its signature under who is in the sum", "签署参与名单"),
    "doing.unmask": Text("its shares that open the sum", "开启总和的份额"),
    "doing.abort": Text("giving the attempt up", "放弃本次尝试"),
}
