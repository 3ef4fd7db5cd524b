"""The machine and the process."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "nav.system": Text("System", "系统"),
    "system.title": Text("System", "系统"),
    "system.leads": Text("This process leads", "本进程为主进程"),
    "system.stands-by": Text("This process stands by; another one leads", "本进程待命，另一进程为主进程"),
    "system.disk-is": Text("{free} free", "剩余 {free}"),
    "system.no-backup": Text("no backup", "无备份"),
    "system.backed-up": Text("backup", "备份"),
    "system.certificate-ends": Text("certificate: {count} days", "证书剩余 {count} 天"),
    "system.certificates-good": Text("certificates", "证书有效"),
    "system.requests": Text("Requests in the last hour", "最近一小时的请求"),
    "system.this-process": Text("of this process", "仅本进程"),
    "system.rate": Text("Rate", "速率"),
    "system.per-second": Text("a second, in the last five minutes", "每秒，最近五分钟"),
    "system.usual": Text("Usual answer", "通常响应"),
    "system.usual-means": Text("half of them, polls left out", "半数请求，不计轮询"),
    "system.slow": Text("Slow answer", "较慢响应"),
    "system.slow-means": Text("all but one in a hundred", "99% 的请求"),
    "system.failed": Text("Failed", "失败"),
    "system.of-requests": Text("of {count} requests", "共 {count} 个请求"),
    "system.answered": Text("answered", "已应答"),
    "system.refused": Text("refused (4xx)", "已拒绝（4xx）"),
    "system.broken": Text("failed (5xx, broken off)", "失败（5xx、中断）"),
    "system.minute": Text(
        "{time}: {requests} requests, {refused} refused, {failed} failed",
        "{time}：{requests} 个请求，{refused} 个被拒绝，{failed} 个失败",
    ),
    "system.minute-of": Text("minute (UTC)", "分钟（UTC）"),
    "system.all": Text("all", "全部"),
    "system.requests-label": Text(
        "Requests by the minute, {count} minutes; at most {most} in one",
        "{count} 分钟内每分钟的请求数；最多 {most}",
    ),
    "system.work": Text("Work in hand", "进行中的工作"),
    "system.queue": Text("queue", "队列"),
    "system.jobs": Text(
        "{count} jobs at the workers", "工作进程有 {count} 项任务", one="1 job at the workers"
    ),
    "system.workers": Text("workers", "工作进程"),
    "system.alive": Text("{alive} run, {count} may", "运行 {alive} 个，最多 {count} 个"),
    "system.lead": Text("lead", "主进程"),
    "system.lead-is": Text(
        "taken {count} times; every change is bound to the number",
        "第 {count} 次接管；每次更改都与此编号绑定",
        one="taken once; every change is bound to the number",
    ),
    "system.started": Text("started", "启动时间"),
    "system.in-hand": Text("requests in hand", "处理中的请求"),
    "system.bodies": Text("messages coming in", "正在接收的消息"),
    "system.of": Text("{used} of {whole}", "{whole} 中的 {used}"),
    "system.streams": Text("pages that are open", "打开的页面"),
    "system.open": Text("open attempts", "进行中的尝试"),
    "system.storage": Text("Database and disk", "数据库与磁盘"),
    "system.database": Text("database", "数据库"),
    "system.entries": Text("entries of the log", "日志条数"),
    "system.archive": Text("archive of the log", "日志归档"),
    "system.archived": Text("has every entry", "已有全部记录"),
    "system.unsent": Text("lacks {count} entries", "缺少 {count} 条记录", one="lacks 1 entry"),
    "system.disk": Text("disk", "磁盘"),
    "system.free-of": Text("{free} free of {whole}", "剩余 {free}，共 {whole}"),
    "system.backup": Text("last backup", "上次备份"),
    "system.no-backup-means": Text(
        "None was made on this machine: medveil aggregator backup", "本机尚未备份：medveil aggregator backup"
    ),
    "system.dump": Text("Dumps of PostgreSQL are not seen from here.", "此处看不到 PostgreSQL 的转储。"),
    "system.certificates": Text("Certificates", "证书"),
    "system.file": Text("file in tls/", "tls/ 中的文件"),
    "system.until": Text("until", "有效期至"),
    "system.days": Text("left", "剩余"),
    "system.days-left": Text("{count} days", "{count} 天"),
    "system.no-certificate": Text(
        "There is none: a front answers for this process.", "没有证书：由前端服务器负责。"
    ),
    "system.packages": Text("Installed packages", "已安装的软件包"),
    "system.packages-means": Text(
        "What answers the network, keeps data or reckons privacy. Compare them with an advisory "
        "database, on a machine "
        "that reaches one: pip-audit.",
        "负责网络应答、数据保存或隐私核算的软件包。请在能联网的机器上与漏洞库比对：pip-audit。",
    ),
}
