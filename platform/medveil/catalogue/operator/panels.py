"""The panels: what leaves, data, training, ledger, health."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

PANELS: Texts = {
    "leaves.title": Text("What leaves this hospital", "哪些内容离开本院"),
    "leaves.last": Text(
        "the newest {count}; the record has {total} entries", "显示最近 {count} 条；记录共 {total} 条"
    ),
    "leaves.time": Text("time", "时间"),
    "leaves.what": Text("what", "内容"),
    "leaves.round": Text("round {count}", "第 {count} 轮"),
    "leaves.size": Text("size", "大小"),
    "leaves.masked": Text("masked", "加掩码"),
    "leaves.sealed": Text("sealed", "已密封"),
    "leaves.open": Text("no content of patients", "不含患者内容"),
    "leaves.to": Text("to", "接收方"),
    "leaves.hash": Text("hash", "哈希"),
    "leaves.nothing": Text("Nothing has left since a record is kept.", "自开始记录以来，没有任何内容离开。"),
    "sent.enrolment": Text("name and public key, with the token", "名称与公钥，附一次性口令"),
    "sent.certificate": Text("public key for TLS", "TLS 公钥"),
    "sent.approval": Text("signature under a plan", "对计划的签名"),
    "sent.keys": Text("public keys", "公钥"),
    "sent.shares": Text("sealed shares of keys", "密封的密钥份额"),
    "sent.ready": Text("word that the work is done", "计算完成的通知"),
    "sent.masked-segment": Text("masked update", "加掩码的更新"),
    "sent.upload": Text("signed list of hashes", "签名的哈希列表"),
    "sent.agreement": Text("signature under the list of hospitals", "对医院名单的签名"),
    "sent.unmask-share": Text("shares that open the sum", "打开总和所用的份额"),
    "sent.giving-up": Text("promise never to open a failed attempt", "放弃失败尝试的承诺"),
    "sent.ledger-end": Text("end of the ledger, as a keyed hash", "账本末行的带密钥哈希"),
    "sent.letters": Text("blinded numbers for a keeper of pseudonyms", "发往假名保管方的盲化数值"),
    "sent.refusal": Text("refusal and its reason", "拒绝及理由"),
    "leaves.may": Text("May leave", "可以离开"),
    "leaves.may.1": Text(
        "masked updates that only a sum with others can open", "加掩码的更新，只有与其他医院求和后才能打开"
    ),
    "leaves.may.2": Text(
        "masked counts and test figures, with noise where the plan says so",
        "加掩码的计数和测试指标，计划要求时加噪声",
    ),
    "leaves.may.3": Text("public keys, sealed shares, signatures", "公钥、密封的份额、签名"),
    "leaves.may.4": Text("the reason that you type when you refuse", "您拒绝时填写的理由"),
    "leaves.never": Text("Never leaves", "绝不离开"),
    "leaves.never.1": Text("images, outlines, labels and reports", "影像、轮廓、标签和报告"),
    "leaves.never.2": Text(
        "names, numbers, pseudonyms and dates of patients", "患者的姓名、编号、假名和日期"
    ),
    "leaves.never.3": Text(
        "this hospital's own update or score, unmasked", "本院自己的、未加掩码的更新或得分"
    ),
    "leaves.never.4": Text("file names, folders, logs", "文件名、文件夹、日志"),
    "data.title": Text("Data", "数据"),
    "data.checked": Text("checked", "已检查"),
    "data.unchecked": Text("not checked yet", "尚未检查"),
    "data.source": Text("Source", "来源"),
    "data.folder": Text("folder, read only:", "文件夹，只读："),
    "data.pacs": Text("PACS, read only:", "PACS，只读："),
    "data.kind": Text("Kind", "类型"),
    "data.patients": Text("{count} patients", "{count} 名患者", one="1 patient"),
    "data.images": Text("{count} images", "{count} 幅影像", one="1 image"),
    "data.labels": Text("Labels in training", "训练集标签"),
    "data.moved": Text("Left out: another split before", "已排除：曾属于其他划分"),
    "data.looked": Text("Looked at", "检查时间"),
    "data.rejects": Text("{count} items to look at", "有 {count} 项需要查看", one="1 item to look at"),
    "data.error": Text("{count} left out", "排除 {count} 项"),
    "data.warning": Text("{count} warnings", "{count} 条警告", one="1 warning"),
    "data.lines": Text(
        "Which files these are is told in the terminal only.", "具体是哪些文件，只在终端中显示。"
    ),
    "data.none": Text(
        "Nobody has looked at the images yet. This command does:", "影像尚未检查。请运行以下命令："
    ),
    "data.cache": Text("Sealed copies of images on this disk: {size}.", "本机磁盘上的密封影像副本：{size}。"),
    "profile.xray": Text("X-ray films", "X 线片"),
    "profile.mri": Text("MR volumes", "磁共振容积"),
    "profile.mri_slices": Text("MR slices", "磁共振切片"),
    "profile.brain": Text("brain MR volumes", "脑部磁共振容积"),
    "profile.picture": Text("pictures", "图片"),
    "task.classification": Text("tells classes apart", "分类"),
    "task.segmentation": Text("outlines structures", "分割"),
    "task.findings": Text("names several findings", "识别多种征象"),
    "task.regression": Text("predicts a number", "预测数值"),
    "split.train": Text("Training", "训练"),
    "split.val": Text("Validation", "验证"),
    "split.test": Text("Test", "测试"),
    "part.images": Text("reading images", "读取影像"),
    "part.training": Text("training", "训练中"),
    "part.evaluation": Text("evaluation", "评估中"),
    "training.title": Text("Current training", "当前训练"),
    "training.none": Text("Nothing is computed now.", "目前没有计算任务。"),
    "training.round": Text("{study}, round {round} of {rounds}", "{study}，第 {round} 轮，共 {rounds} 轮"),
    "training.step": Text("step {done} of {total}", "第 {done} 步，共 {total} 步"),
    "training.image": Text("image {done} of {total}", "第 {done} 幅影像，共 {total} 幅"),
    "training.left": Text("about {left} left", "大约还需 {left}"),
    "training.device": Text("Computed on", "计算设备"),
    "training.cuda": Text("the GPU", "GPU 显卡"),
    "training.cpu": Text("the processor", "处理器"),
    "training.of": Text("{used} of {whole}", "{used}，共 {whole}"),
    "training.memory": Text("Memory", "内存"),
    "training.hours": Text("Allowed hours", "允许的时段"),
    "training.always": Text("always", "始终"),
    "training.loss": Text("Loss", "损失"),
    "training.stays": Text("is not shown and not kept", "不显示，也不保存"),
    "ledger.title": Text("Privacy ledger of this hospital", "本院隐私账本"),
    "ledger.cap": Text("your cap: ε {cap} for any patient", "您的上限：每名患者 ε {cap}"),
    "ledger.most": Text(
        "The patient who pays most has spent ε {spent}; ε {promised} is promised to approved studies.",
        "消耗最多的患者已消耗 ε {spent}；已批准的研究共承诺 ε {promised}。",
    ),
    "ledger.room": Text(
        "The cap leaves room for one more study of ε {room}.", "上限还可容纳一项 ε {room} 的研究。"
    ),
    "ledger.full": Text("The cap leaves room for no further study.", "上限已无法容纳更多研究。"),
    "ledger.study": Text("study", "研究"),
    "ledger.patients": Text("patients", "患者"),
    "ledger.spent": Text("spent", "已消耗"),
    "ledger.finished": Text("when finished", "完成时"),
    "ledger.line": Text("cap {cap} at the red line", "红线处为上限 {cap}"),
    "ledger.none": Text("No study has been charged yet.", "尚无研究计入账本。"),
    "ledger.bar": Text(
        "{spent} spent, {finished} when finished, cap {cap}", "已消耗 {spent}，完成时 {finished}，上限 {cap}"
    ),
    "health.title": Text("Health", "运行状况"),
    "health.version": Text("version {version}", "版本 {version}"),
    "health.next": Text("Next:", "下一步："),
    "health.off": Text("No node works in this folder.", "此文件夹中没有正在运行的节点。"),
    "health.silent": Text(
        "The node runs, but has told nothing since {at}.", "节点在运行，但自 {at} 起没有消息。"
    ),
    "health.connected": Text("The aggregator answers, since {at}.", "聚合方自 {at} 起应答正常。"),
    "health.idle": Text(
        "No approved study goes on, so the node calls nobody.",
        "没有已批准且进行中的研究，节点不与任何方联系。",
    ),
    "health.unreachable": Text("The aggregator has not answered since {at}.", "聚合方自 {at} 起没有应答。"),
    "health.problem": Text("Last problem, {at}: {what} ({code})", "最近的问题，{at}：{what}（{code}）"),
    "health.journal": Text("The node's files cannot be read: {what}", "无法读取节点的文件：{what}"),
    "health.models": Text(
        "{count} models were refused.", "有 {count} 个模型被拒绝。", one="A model was refused."
    ),
    "health.audit": Text("The aggregator's audit log contradicts itself.", "聚合方的审计日志前后矛盾。"),
    "health.disk": Text("{bytes} are free on the node's disk.", "节点磁盘剩余 {bytes}。"),
    "health.no-disk": Text("The node's disk cannot be looked at.", "无法查看节点的磁盘。"),
    "health.authority": Text(
        "The aggregator's authority is valid until {date}, {count} days.",
        "聚合方证书颁发机构有效期至 {date}，还有 {count} 天。",
    ),
    "health.authority-over": Text(
        "The aggregator's authority ended {count} days ago.", "聚合方证书颁发机构已过期 {count} 天。"
    ),
    "health.certificate": Text(
        "This node's certificate is valid until {date}, {count} days. It renews itself.",
        "本节点证书有效期至 {date}，还有 {count} 天。会自动续期。",
    ),
    "health.certificate-over": Text(
        "This node's certificate ended {count} days ago.", "本节点证书已过期 {count} 天。"
    ),
    "health.refused": Text(
        "{count} of the newest requests to this page were refused; see below.",
        "最近有 {count} 个对本页面的请求被拒绝；见下。",
        one="One of the newest requests to this page was refused; see below.",
    ),
    "health.log": Text("What the node's log said last", "节点日志的最新内容"),
    "health.line": Text("line", "内容"),
    "health.events": Text("What was done at this page", "本页面的操作记录"),
    "health.event": Text("event", "事件"),
    "health.route": Text("where", "位置"),
    "health.support": Text("Support bundle: see it before you hand it on", "支持信息包：交出之前先查看"),
    "mark.done": Text("fine", "正常"),
    "mark.late": Text("look soon", "请尽快查看"),
    "mark.refused": Text("refused", "异常"),
    "mark.needs": Text("needs you", "需要您处理"),
    "mark.waiting": Text("waiting", "等待中"),
    "event.started": Text("page started", "页面启动"),
    "event.signed-in": Text("signed in", "登录"),
    "event.signed-out": Text("signed out", "退出"),
    "event.refused": Text("refused", "拒绝"),
    "event.approved": Text("plan approved", "批准计划"),
    "event.asked": Text("aggregator asked", "向聚合方查询"),
    "notice.approved": Text(
        "The plan is approved. A running node hands it in; it starts when enough hospitals have approved.",
        "计划已批准。运行中的节点会提交批准；足够多的医院批准后开始。",
    ),
    "notice.asked": Text("The aggregator was asked; this is its answer.", "已向聚合方查询，以下是其答复。"),
}
