"""The audit log."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "nav.audit": Text("Audit", "审计"),
    "audit.title": Text("Audit log", "审计日志"),
    "audit.entries": Text(
        "{count} entries in the audit log", "审计日志共 {count} 条", one="One entry in the audit log"
    ),
    "audit.lead": Text(
        "Every change of the database has an entry, chained to the one before and signed with the admin key.",
        "数据库的每次更改都有一条记录，与前一条相连，并由管理员密钥签名。",
    ),
    "audit.unchecked": Text("not checked", "未检查"),
    "audit.unchecked-means": Text(
        "Nobody has asked for a check since this process began.", "自本进程启动以来，还没有人要求检查。"
    ),
    "audit.running": Text("being checked", "检查中"),
    "audit.running-means": Text(
        "Every entry and every row of the database, for", "正在检查每条记录与数据库每一行，已用时"
    ),
    "audit.whole": Text("whole", "完整"),
    "audit.whole-means": Text(
        "Every entry up to {number} is as it was written, and the database holds what they say. "
        "It took {seconds} s.",
        "直到第 {number} 条的记录均与写入时一致，数据库内容也与之相符。用时 {seconds} 秒。",
    ),
    "audit.broken": Text("broken", "已损坏"),
    "audit.broken-means": Text(
        "Entry {number} is the first that is bad.", "第 {number} 条是第一条有问题的记录。"
    ),
    "audit.failed": Text("could not be checked", "无法检查"),
    "audit.check": Text("Check the whole log …", "检查整个日志 …"),
    "audit.check-title": Text("Check the whole audit log", "检查整个审计日志"),
    "audit.check-means": Text(
        "Every signature, every link of the chain and every row of the database is checked, in a "
        "process of its own. "
        "Some ten thousand entries a second are read; rounds go on meanwhile. The result stands "
        "on the audit page.",
        "将在独立进程中检查每个签名、链条的每一环以及数据库的每一行。每秒约读取一万条；"
        "其间轮次照常进行。结果显示在审计页面上。",
    ),
    "audit.check-heads": Text(
        "Whether the log is the one that hospitals have seen, only their own files can show:",
        "日志是否与各医院所见一致，只有医院自己的文件可以证明：",
    ),
    "audit.check-now": Text("Check now", "立即检查"),
    "audit.back": Text("Back to the audit log", "返回审计日志"),
    "audit.export": Text("Export as JSON lines", "导出为 JSON Lines"),
    "audit.log": Text("Entries, the newest first", "记录（最新在前）"),
    "audit.window": Text("searched: {first} to {last}", "搜索范围：{first} 至 {last}"),
    "audit.actor": Text("who", "执行者"),
    "audit.action": Text("what", "操作"),
    "audit.text": Text("of what (part of it)", "对象（部分文字）"),
    "audit.search": Text("Search", "搜索"),
    "audit.number": Text("number", "编号"),
    "audit.time": Text("time", "时间"),
    "audit.subject": Text("of what", "对象"),
    "audit.hash": Text("hash", "哈希"),
    "audit.nothing": Text(
        "Nothing fits between entries {first} and {last}.", "第 {first} 至 {last} 条之间没有符合条件的记录。"
    ),
    "audit.newest": Text("The newest", "最新"),
    "audit.older": Text("Older entries", "更早的记录"),
    "audit.holders": Text("Who holds a head of this log", "谁持有本日志的头部"),
    "audit.holders-means": Text(
        "Before a hospital's node joins an attempt it keeps the log's head on its own disk, and "
        "takes no part if that "
        "contradicts what it has kept. So each message in an attempt stands for a head from before it.",
        "医院节点在参加每次尝试之前，会把日志头部保存在自己的磁盘上；"
        "如与已保存内容矛盾则拒绝参加。因此尝试中的每条消息都代表在其之前的一个头部。",
    ),
    "audit.hospital": Text("hospital", "医院"),
    "audit.holds": Text("holds a head from before", "持有早于以下记录的头部"),
    "audit.holds-one": Text("entry {number}", "第 {number} 条"),
    "audit.holds-none": Text("no message of late", "最近没有消息"),
    "audit.since": Text("entries since", "此后的条数"),
    "audit.nobody": Text("No hospital is enrolled yet.", "还没有医院加入。"),
    "audit.proof": Text(
        "The proof are the hospitals' own files: “medveil node heads --export” there, “medveil "
        "aggregator audit verify "
        "--heads FILE” here.",
        "最终证据是医院自己的文件：在医院运行“medveil node heads --export”，在此运行“medveil "
        "aggregator audit verify --heads FILE”。",
    ),
    "audit.head": Text("Head:", "头部："),
}
