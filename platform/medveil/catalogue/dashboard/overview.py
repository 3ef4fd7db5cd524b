"""The overview."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "overview.title": Text("Overview", "总览"),
    "overview.kicker": Text("Studies of {consortium}", "{consortium} 的研究"),
    "overview.many": Text("{count} studies go on", "{count} 项研究正在进行"),
    "overview.each": Text("What each waits for stands beside it.", "每项研究正在等待什么，见下方。"),
    "overview.quiet": Text("No study runs", "没有正在进行的研究"),
    "overview.over": Text("{count} studies are over.", "{count} 项研究已结束。", one="One study is over."),
    "overview.nothing": Text("There is no study yet", "还没有研究"),
    "overview.begin": Text("An admin begins in a terminal:", "管理员在终端中开始："),
    "overview.hospitals": Text("Hospitals by state", "按状态统计的医院"),
    "overview.enrolled": Text(
        "{count} hospitals enrolled", "已加入 {count} 家医院", one="one hospital enrolled"
    ),
    "overview.in-reach": Text("{reached} of {count} hospitals in reach", "{count} 家医院中 {reached} 家在线"),
    "overview.silent": Text("{count} silent", "{count} 家无联系"),
    "overview.progress": Text("{done} of {rounds} rounds are over", "{rounds} 轮中已完成 {done} 轮"),
    "overview.see-study": Text("The study", "查看研究"),
    "overview.see-round": Text("Round {round}, hospital by hospital", "第 {round} 轮，逐家医院查看"),
    "overview.see-rounds": Text(
        "All {count} attempts so far", "全部 {count} 次尝试", one="The attempt so far"
    ),
    "overview.model": Text("Newest model: version {version}.", "最新模型：版本 {version}。"),
    "overview.model-figure": Text(
        "Newest model: version {version}. Newest figure: {name} {words}, of round {round}.",
        "最新模型：版本 {version}。最新指标：{name} {words}（第 {round} 轮）。",
    ),
    "overview.alarms": Text("{count} alarms", "{count} 条警报", one="One alarm"),
    "overview.severity.critical": Text("critical", "严重"),
    "overview.severity.warning": Text("warning", "警告"),
    "overview.severity.info": Text("to know", "提示"),
    "overview.head": Text("Audit log", "审计日志"),
    "alarm.MedVeilRoundStuck": Text("One phase has lasted {time}.", "一个阶段已持续 {time}。"),
    "alarm.MedVeilQuorumUnreachable": Text(
        "Only {count} hospitals are in reach, fewer than a round needs.",
        "只有 {count} 家医院在线，少于一轮所需。",
        one="Only one hospital is in reach, fewer than a round needs.",
    ),
    "alarm.MedVeilHospitalSilent": Text(
        "{hospital} was not heard from for {time}.", "{hospital} 已有 {time} 没有联系。"
    ),
    "alarm.MedVeilStudyPaused": Text("Paused for {time}.", "已暂停 {time}。"),
    "alarm.MedVeilRosterWaits": Text(
        "The change of the roster has waited for {time}.", "名单变更已等待 {time}。"
    ),
    "alarm.MedVeilAttemptsFail": Text(
        "{count} attempts have failed within an hour.", "一小时内有 {count} 次尝试失败。"
    ),
    "alarm.MedVeilFaults": Text(
        "{count} requests have failed here within ten minutes.", "十分钟内有 {count} 个请求在此失败。"
    ),
    "alarm.MedVeilDiskAlmostFull": Text("{size} are left on the disk.", "磁盘仅剩 {size}。"),
    "alarm.MedVeilCertificateEnds": Text(
        "The server's certificate ends in {time}; then no node talks to it.",
        "服务器证书将在 {time}后到期；届时没有节点能与它通信。",
    ),
    "alarm.MedVeilAuditUnsent": Text(
        "The archive of the audit log does not take it: {count} entries wait, the oldest for {time}.",
        "审计日志的归档服务器不接收：{count} 条记录在等待，最早的已等待 {time}。",
        one="The archive of the audit log does not take it: 1 entry waits, for {time}.",
    ),
    "alarm.MedVeilBackupOld": Text("The last backup is {time} old.", "上次备份已是 {time}前。"),
    "alarm.MedVeilBackupOld.never": Text("There is no backup yet.", "还没有备份。"),
    "overview.amendments": Text("Changes of rosters that wait", "等待中的名单变更"),
    "overview.others": Text("Other studies", "其他研究"),
    "overview.study": Text("study", "研究"),
    "overview.state": Text("state", "状态"),
    "overview.rounds": Text("rounds", "轮次"),
    "overview.created": Text("created", "创建时间"),
}
