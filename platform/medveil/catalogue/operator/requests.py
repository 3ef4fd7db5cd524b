"""Plans on offer, and their cards."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

REQUESTS: Texts = {
    "requests.title": Text("Requests", "请求"),
    "requests.nothing": Text("nothing waits for you", "没有待处理的请求"),
    "requests.none": Text("No plan is on offer.", "目前没有计划。"),
    "requests.never": Text("The aggregator has not been asked yet.", "尚未向聚合方查询。"),
    "requests.unasked": Text("The aggregator could not be asked:", "无法向聚合方查询："),
    "requests.unreadable": Text(
        "Offer {number} is no plan that could be shown:", "第 {number} 个提议不是可以显示的计划："
    ),
    "requests.outdated": Text(
        "Approved with an earlier version, refused by this one:", "用旧版本批准、被此版本拒绝的计划："
    ),
    "requests.approvals": Text(
        "{count} of {needed} hospitals have approved", "{needed} 家医院中已有 {count} 家批准"
    ),
    "requests.ask": Text("Ask the aggregator now", "立即向聚合方查询"),
    "requests.asked": Text("Asked", "查询时间"),
    "stands.refused": Text("not allowed", "不允许"),
    "stands.approved": Text("approved", "已批准"),
    "stands.running": Text("running", "进行中"),
    "stands.finished": Text("finished", "已结束"),
    "card.title": Text("Request: {study}", "请求：{study}"),
    "card.title-roster": Text("Roster {epoch} of {study}", "{study} 的第 {epoch} 版名单"),
    "card.roster-stays": Text(
        "Who takes part changes, and nothing else: you approved the rest. "
        "Until enough hospitals have approved this, the roster before it goes on.",
        "只有参与医院发生变化，其余内容您已批准。在足够多的医院批准之前，由原名单继续。",
    ),
    "card.roster-joins": Text(
        "A study that runs already asks this hospital to join. The whole plan stands below.",
        "一项正在进行的研究请本院加入。完整计划见下方。",
    ),
    "card.joins": Text("Joins", "加入"),
    "card.leaves-roster": Text("Leaves", "离开"),
    "card.stay": Text("Stay", "留下"),
    "card.stay-count": Text(
        "{stay} hospitals with the same keys; {hospitals} in all, {before} before",
        "{stay} 家医院，密钥不变；共 {hospitals} 家，此前 {before} 家",
    ),
    "card.sums": Text("Fewest in a sum", "求和的最少医院数"),
    "card.sums-count": Text(
        "{sums} of {hospitals}, {before} before", "{hospitals} 家中的 {sums} 家，此前 {before} 家"
    ),
    "card.budget": Text("Privacy budget", "隐私预算"),
    "card.budget-stays": Text(
        "As approved: ε {spent} so far, {end} at the end; each round is charged once, with either roster.",
        "与批准时相同：迄今 ε {spent}，结束时 {end}；每轮只计一次，与名单无关。",
    ),
    "card.budget-joins": Text(
        "From round {round} on: ε {spent} so far, {end} at the end.",
        "自第 {round} 轮起：迄今 ε {spent}，结束时 {end}。",
    ),
    "card.budget-alone": Text(
        "Without counting on the others' noise: {spent}, at the end {end}.",
        "若不依赖其他医院的噪声：{spent}，结束时 {end}。",
    ),
    "card.budget-none": Text("None, as before: the sum is not noised.", "与此前相同：总和不加噪声。"),
    "card.goes-on": Text("The model", "模型"),
    "card.goes-on-stays": Text(
        "Goes on, and so do this hospital's frozen patients, declared number and charges.",
        "继续使用；本院冻结的患者、申报人数和已记的预算同样延续。",
    ),
    "card.goes-on-joins": Text(
        "Goes on from round {round}; all models and sums so far are handed over.",
        "从第 {round} 轮继续；迄今的全部模型与总和都会移交。",
    ),
    "card.left-behind": Text(
        "What a hospital that leaves gave stays in the model; it is asked no more.",
        "离开的医院已贡献的内容留在模型中；不再向其请求。",
    ),
    "card.whole": Text("The whole plan, as you approved it", "完整计划（与您批准的相同）"),
    "card.says": Text(
        "{hospitals} hospitals want to train one model that {task}, from {profile}, in {rounds} rounds.",
        "{hospitals} 家医院希望用{profile}共同训练一个模型（{task}），共 {rounds} 轮。",
    ),
    "card.reads": Text(
        "It would read {train} patients here for training, {val} for validation and {test} for the test.",
        "它会读取本院 {train} 名训练患者、{val} 名验证患者和 {test} 名测试患者。",
    ),
    "card.author": Text("Its author says:", "作者说明："),
    "card.learns": Text("It learns", "学习内容"),
    "card.model": Text("{model}, {parameters} parameters", "{model}，{parameters} 个参数"),
    "card.spends": Text("Privacy it spends", "消耗的隐私预算"),
    "card.no-noise": Text("no noise", "不加噪声"),
    "card.discrete": Text("exact discrete noise", "精确离散噪声"),
    "card.alone": Text("{epsilon} if no other hospital adds its noise", "若其他医院均不加噪声则为 {epsilon}"),
    "card.of": Text("of {cap} that you allow", "您允许的上限为 {cap}"),
    "card.squared": Text(
        "Hospitals count by the square of their declared patients: less noise, but large ones count for more "
        "than their patients.",
        "各医院按申报人数的平方计权：噪声更小，但大医院的权重超过其患者比例。",
    ),
    "card.matched": Text(
        "Less noise in rounds that count more in the final model, more in others, for the same price.",
        "对最终模型影响较大的轮次噪声较小，其余轮次较大；隐私代价不变。",
    ),
    "card.filtered": Text(
        "Each patient pays what was really used, and adds nothing once the price is reached. Who that is "
        "stays here and shows nowhere.",
        "每位患者只支付实际用量；达到上限后不再贡献。具体是谁只留在本院，任何地方都不显示。",
    ),
    "card.leaves": Text("Leaves each round", "每轮外发"),
    "card.time": Text("Time at the longest", "最长用时"),
    "card.memory": Text("memory {size} or more", "内存 {size} 或以上"),
    "card.no-privacy": Text(
        "The sum of all hospitals is not noised: what the model reveals about a patient has no bound.",
        "所有医院的总和不加噪声：模型对单个患者的泄露没有上限。",
    ),
    "card.own-figures": Text(
        "This hospital's own figures will be visible to all who may read the study.",
        "所有有权阅读该研究的人都将看到本院自己的指标。",
    ),
    "card.left-out": Text(
        "{count} patients are left out: an earlier study met them in another split.",
        "排除 {count} 名患者：他们在先前的研究中属于另一划分。",
        one="1 patient is left out: an earlier study met this one in another split.",
    ),
    "card.elsewhere": Text(
        "{count} patients are left out: they are another hospital's in this consortium, or nobody knows.",
        "排除 {count} 名患者：他们在本联盟中归属另一家医院，或归属未知。",
        one="1 patient is left out: another hospital's in this consortium, or nobody knows.",
    ),
    "card.starts": Text("It goes on from an earlier model:", "它从先前的模型继续："),
    "card.seen": Text(
        "Any {count} of these together can see your update after the smallest sum:",
        "以下任意 {count} 家联合，在最小的一次求和之后可以看到您的更新：",
    ),
    "card.unseen": Text(
        "The aggregator cannot, even if it lies and {count} of them help it.",
        "聚合方看不到，即使它作弊并有其中 {count} 家协助。",
    ),
    "card.words": Text("Twelve words to compare by telephone", "请通过电话核对的十二个单词"),
    "card.call": Text(
        "Call the admin at a number that you already have. All twelve must be the same, in this order.",
        "请拨打您已有的管理员电话。十二个单词及其顺序必须完全一致。",
    ),
    "card.changed": Text(
        "What changed since the plan that you approved: {study}", "与您上次批准的计划（{study}）相比的变化"
    ),
    "card.same": Text("Nothing that is compared here.", "此处比较的各项没有变化。"),
    "card.item": Text("item", "项目"),
    "card.before": Text("approved", "已批准"),
    "card.asked": Text("now asked", "现在请求"),
    "card.terms": Text("Every term, as the terminal shows it", "全部条款（与终端显示相同，英文）"),
    "card.type": Text("Type the twelve words that the admin reads to you", "输入管理员念给您的十二个单词"),
    "card.declare": Text(
        "Training patients to declare, for the plan's life", "申报的训练患者数（在整个计划期间有效）"
    ),
    "card.agree": Text(
        "I compared the twelve words by telephone, and this hospital agrees to exactly this plan.",
        "我已通过电话核对十二个单词，本院同意且仅同意这一计划。",
    ),
    "card.approve": Text("Approve this plan", "批准此计划"),
    "item.rounds": Text("rounds", "轮数"),
    "item.noise": Text("noise", "噪声"),
    "item.epsilon": Text("privacy, ε", "隐私 ε"),
    "item.delta": Text("privacy, δ", "隐私 δ"),
    "item.hospitals": Text("hospitals", "医院"),
    "item.smallest-sum": Text("fewest hospitals in a sum", "求和的最少医院数"),
    "item.colluders": Text("hospitals that may help a lying aggregator in vain", "可容忍的合谋医院数"),
    "item.task": Text("task", "任务"),
    "item.classes": Text("classes", "类别"),
    "item.model": Text("model, parameters", "模型与参数数"),
    "item.images": Text("images", "影像"),
    "item.work": Text("work of a round", "每轮的工作量"),
    "item.own-figures": Text("this hospital's own figures are shown", "公开本院自己的指标"),
}
