"""The frame of the page, the way in, and the big state."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

FRAME: Texts = {
    "frame.node": Text("node {name}", "节点 {name}"),
    "frame.title": Text("{name} · MedVeil hospital node", "{name} · MedVeil 医院节点"),
    "frame.panels": Text("Panels", "面板"),
    "frame.out": Text("Sign out", "退出"),
    "frame.here": Text("This page is served on this machine only", "本页面只在本机提供"),
    "nav.leaves": Text("What leaves", "外发内容"),
    "nav.data": Text("Data", "数据"),
    "nav.requests": Text("Requests", "请求"),
    "nav.training": Text("Training", "训练"),
    "nav.ledger": Text("Privacy", "隐私"),
    "nav.health": Text("Health", "运行状况"),
    "enter.title": Text("Sign in to this hospital's node", "登录本医院节点"),
    "enter.password": Text("Password", "密码"),
    "enter.in": Text("Sign in", "登录"),
    "enter.or": Text(
        "Or open the newest link in the terminal of “medveil node page”. A session ends after 15 minutes "
        "without you, and after 8 hours.",
        "也可以打开“medveil node page”终端里最新的链接。15 分钟无操作或满 8 小时后，会话自动结束。",
    ),
    "enter.link": Text(
        "Open the newest link in the terminal of “medveil node page”. Each link works once.",
        "请打开“medveil node page”终端里最新的链接。每个链接只能使用一次。",
    ),
    "enter.set": Text("A password can be set instead, on this machine:", "也可以在本机设置一个密码："),
    "refusal.title": Text("This was refused", "请求被拒绝"),
    "refusal.back": Text("To the page", "返回页面"),
    "support.title": Text("Support bundle", "支持信息包"),
    "support.lead": Text(
        "This is all that the bundle holds. Read it before you hand it to anybody.",
        "这就是信息包的全部内容。交给任何人之前，请先通读。",
    ),
    "support.nothing": Text(
        "The page sends it nowhere. It holds no image, key, address, or name of a file, study or person.",
        "本页面不会把它发送到任何地方。其中没有影像、密钥、地址，也没有文件或人员名称。",
    ),
    "support.save": Text("Save as a file", "保存为文件"),
    "big.running": Text("Running", "运行中"),
    "big.waiting": Text("Waiting", "等待中"),
    "big.paused": Text("Paused", "已暂停"),
    "big.needs": Text("Needs you", "需要您处理"),
    "big.off": Text("Not running", "未运行"),
    "now.training": Text("training for round {round} of {rounds}", "第 {round} 轮训练，共 {rounds} 轮"),
    "now.evaluation": Text("the final evaluation", "最终评估"),
    "now.images": Text("reading the images", "正在读取影像"),
    "now.round": Text("round {round} of {rounds}", "第 {round} 轮，共 {rounds} 轮"),
    "now.others": Text("for other hospitals", "等待其他医院"),
    "now.nothing": Text("no approved study has work now", "已批准的研究目前没有任务"),
    "now.no-plan": Text("no study is approved here", "本院尚未批准任何研究"),
    "now.paused": Text("nothing is trained and nothing is sent", "不训练，也不发送任何内容"),
    "now.needs": Text("something stands still until a person acts", "有事项需要人工处理才能继续"),
    "now.off": Text("no node works in this folder", "此文件夹中没有正在运行的节点"),
    "lead.training": Text(
        "{study}. About {left} left; then one masked upload leaves this hospital.",
        "{study}。大约还需 {left}；之后会有一次加掩码的上传离开本院。",
    ),
    "lead.evaluation": Text(
        "{study}. About {left} left; then masked counts leave this hospital.",
        "{study}。大约还需 {left}；之后会有加掩码的计数离开本院。",
    ),
    "lead.images": Text(
        "{study}. About {left} left. Nothing leaves meanwhile.",
        "{study}。大约还需 {left}。期间没有内容外发。",
    ),
    "lead.round": Text(
        "{study}. The masked sum is being made with the other hospitals.",
        "{study}。正在与其他医院共同计算加掩码的总和。",
    ),
    "lead.approvals": Text(
        "{study}. {approvals} of {needed} hospitals have approved; it starts when all of these have.",
        "{study}。{needed} 家医院中已有 {approvals} 家批准；全部批准后开始。",
    ),
    "lead.ready": Text(
        "{study}. The next round opens when enough hospitals are in reach.",
        "{study}。有足够多的医院在线时，下一轮开始。",
    ),
    "lead.waiting": Text(
        "{study} waits. The reason stands below and in the log.", "{study} 正在等待。原因见下文和日志。"
    ),
    "lead.away": Text("{study}. This hospital joins no round now.", "{study}。本院目前不参加任何一轮。"),
    "lead.nothing": Text("A new request would show below.", "新的请求会显示在下方。"),
    "lead.paused": Text(
        "Rounds of the others may end without this hospital. Go on when you are ready.",
        "其他医院的轮次可能在没有本院的情况下结束。准备好后请点击继续。",
    ),
    "lead.off": Text(
        "Nothing is trained and nothing leaves. Start the node, or its service.",
        "不训练，也没有内容外发。请启动节点或其系统服务。",
    ),
    "lead.leaving": Text(
        "This round is finished as agreed; no further round is joined.", "按约定完成本轮；不再参加后续轮次。"
    ),
    "call.needs": Text("Needs you", "需要您处理"),
    "call.see": Text("Look", "查看"),
    "call.off": Text("the node does not run. Start it:", "节点未运行。请启动："),
    "call.silent": Text(
        "the node has told nothing for a while; something holds it up.",
        "节点有一段时间没有消息，可能被卡住。",
    ),
    "call.request": Text(
        "{count} new studies ask for this hospital's part.",
        "有 {count} 项新研究请求本院参加。",
        one="one new study asks for this hospital's part.",
    ),
    "call.alarm": Text(
        "{count} models were refused; the alarm stands until you have looked.",
        "有 {count} 个模型被拒绝；在您查看之前，警报一直有效。",
        one="a model was refused; the alarm stands until you have looked.",
    ),
    "call.audit": Text("the aggregator's audit log contradicts itself.", "聚合方的审计日志前后矛盾。"),
    "call.outdated": Text(
        "{count} plans need a new approval.",
        "有 {count} 个计划需要重新批准。",
        one="a plan needs a new approval.",
    ),
    "call.problem": Text("the node's own files cannot be read.", "无法读取节点自身的文件。"),
}
