"""A study."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "study.title": Text("Study", "研究"),
    "study.round-of": Text("round {round} of {rounds}", "第 {round} 轮，共 {rounds} 轮"),
    "study.no-round": Text("no round yet", "尚未开始"),
    "study.state.approvals": Text("waits for approvals", "等待批准"),
    "study.state.running": Text("running", "进行中"),
    "study.state.paused": Text("paused", "已暂停"),
    "study.state.stopped": Text("stopped", "已停止"),
    "study.state.withdrawn": Text("withdrawn", "已撤回"),
    "study.state.finished": Text("finished", "已完成"),
    "study.state.ended-early": Text("ended early", "提前结束"),
    "study.state.amendment": Text("change of roster", "名单变更"),
    "study.state.amended": Text("goes on with another roster", "由新名单继续"),
    "study.state.set-aside": Text("never took over", "未曾接替"),
    "study.epoch": Text("Roster", "名单"),
    "study.epoch-is": Text("number {epoch}", "第 {epoch} 版"),
    "study.follows": Text("after plan {plan}", "接替计划 {plan}"),
    "study.followed": Text("goes on as plan {plan}", "以计划 {plan} 继续"),
    "study.joins": Text("Joins", "加入"),
    "study.leaves": Text("Leaves", "离开"),
    "study.see-round": Text("Round {round}, hospital by hospital", "第 {round} 轮，逐家医院查看"),
    "study.cost": Text("What it has cost so far", "迄今为止的代价"),
    "study.cost-means": Text(
        "{done} of {rounds} rounds are over. Beneath each figure stands what is still to come.",
        "{rounds} 轮中已完成 {done} 轮。每个数字下方是后续预计。",
    ),
    "study.cost-over": Text(
        "{done} of {rounds} rounds are over, and no more will come.",
        "{rounds} 轮中已完成 {done} 轮，不会再有新的轮次。",
    ),
    "study.estimated": Text(
        "Time and bytes are reckoned from the rounds of late.", "时间和字节数按最近几轮推算。"
    ),
    "study.budget": Text("Epsilon: {spent} spent, {end} at the end", "ε：已用 {spent}，结束时 {end}"),
    "study.epsilon": Text(
        "ε of one patient with all images, of a hospital that takes part in every round; δ = {delta}.",
        "一名患者（包含其全部影像）的 ε，其所在医院参加每一轮；δ = {delta}。",
    ),
    "study.local": Text(
        "Without counting on the others' noise: {local}, at the end {end}.",
        "若不依赖其他医院的噪声：{local}，结束时 {end}。",
    ),
    "study.roster": Text("Hospitals of this study", "本研究的医院"),
    "study.approvals": Text(
        "{approvals} of {count} have approved, {need} are needed",
        "{count} 家中已有 {approvals} 家批准，需要 {need} 家",
    ),
    "study.hospital": Text("hospital", "医院"),
    "study.said": Text("its word", "意见"),
    "study.there": Text("in reach", "在线"),
    "study.traffic": Text("a round, up and down", "每轮上传与下载"),
    "study.key": Text("key", "密钥"),
    "study.stand.waiting": Text("not decided", "未决定"),
    "study.stand.approved": Text("approved", "已批准"),
    "study.stand.refused": Text("refused", "已拒绝"),
    "study.stand.withdrawn": Text("withdrew", "已撤回批准"),
    "study.away": Text("joins no round for now", "暂不参加"),
    "study.facts": Text("The study", "研究概况"),
    "study.task": Text("Task", "任务"),
    "study.created": Text("Created", "创建时间"),
    "study.from": Text("Starts from", "起点"),
    "study.from-version": Text("version {version} of {study}", "{study} 的版本 {version}"),
    "study.from-cost": Text(
        "which had cost its patients ε {epsilon} in that study", "在那项研究中已花费其患者 ε {epsilon}"
    ),
    "study.from-no-noise": Text("made without noise", "未加噪声"),
    "study.progress": Text("Progress", "进度"),
    "study.done": Text(
        "{done} of {rounds} rounds, in {attempts} attempts",
        "{rounds} 轮中完成 {done} 轮，共尝试 {attempts} 次",
    ),
    "study.version": Text("Newest model", "最新模型"),
    "study.figure": Text("Newest figure", "最新指标"),
    "study.no-figure": Text("nothing measured yet", "尚未测量"),
    "study.in-round": Text("in round {round}", "第 {round} 轮"),
    "study.words": Text("Fingerprint of the plan", "计划指纹"),
    "study.words-means": Text(
        "Every hospital sees the same twelve words. Compare them by telephone.",
        "每家医院看到的十二个词相同。请通过电话核对。",
    ),
    "study.directives": Text("What the admin has said", "管理员的指令"),
    "study.order.pause": Text("pause", "暂停"),
    "study.order.resume": Text("resume", "继续"),
    "study.order.stop": Text("stop", "停止"),
    "study.order.withdraw": Text("withdraw", "撤回"),
}
