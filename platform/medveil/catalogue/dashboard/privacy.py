"""Privacy: sentences for whoever answers for patients' data."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "nav.privacy": Text("Privacy", "隐私"),
    "privacy.title": Text("What studies cost their patients", "各项研究的患者隐私开销"),
    "privacy.lead": Text(
        "Epsilon bounds what anybody can learn about one patient from all that a study releases. "
        "Smaller is safer.",
        "ε 限定了任何人从研究公布的全部内容中所能得知的单个患者信息。数值越小越安全。",
    ),
    "privacy.all": Text("all studies", "全部研究"),
    "privacy.kind.none": Text("no noise", "无噪声"),
    "privacy.kind.local": Text("noise of each hospital", "各医院独立噪声"),
    "privacy.kind.joint": Text("joint noise", "联合噪声"),
    "privacy.finished": Text("finished", "已完成"),
    "privacy.ended-early": Text("ended before its last round", "在最后一轮之前结束"),
    "privacy.bar": Text(
        "epsilon {spent} spent, {end} after all rounds, {stated} stated",
        "已用 ε {spent}，全部轮次后 {end}，声明值 {stated}",
    ),
    "privacy.line": Text("ε {spent} spent, {end} at the end", "已用 ε {spent}，结束时 {end}"),
    "privacy.line-local": Text(
        "Against everybody together: ε {spent} spent, {end} at the end",
        "对抗所有其他方：已用 ε {spent}，结束时 {end}",
    ),
    "privacy.stated": Text("stated {stated}", "声明值 {stated}"),
    "privacy.joint": Text(
        "Whoever reads all that the study releases can better the odds of guessing whether one "
        "patient took part by the factor {factor} at most (ε {epsilon} at the end, {spent} so "
        "far; except with probability {delta}), as long as {honest} hospitals in each sum add "
        "their noise and keep it to themselves.",
        "只要每个总和中有 {honest} 家医院如实加入噪声且不泄露，"
        "读取研究全部公布内容的人猜测某位患者是否参与时，胜算最多提高到原来的 {factor} "
        "倍（结束时 ε {epsilon}，目前 {spent}；例外概率为 {delta}）。",
    ),
    "privacy.local-joint": Text(
        "Whoever reads all that the study releases can better the odds of guessing whether one "
        "patient took part by the factor {factor} at most (ε {epsilon} at the end, {spent} so "
        "far; except with probability {delta}). The noise of the patient's own hospital is "
        "enough for it.",
        "读取研究全部公布内容的人猜测某位患者是否参与时，胜算最多提高到原来的 {factor} "
        "倍（结束时 ε {epsilon}，目前 {spent}；例外概率为 {delta}）。"
        "仅凭患者所在医院自身的噪声即可保证。",
    ),
    "privacy.local-shared": Text(
        "Whoever reads all that the study releases can better the odds of guessing whether one "
        "patient took part by the factor {factor} at most (ε {epsilon} at the end, {spent} so "
        "far; except with probability {delta}). For patients that train the model the noise of their "
        "own hospital is enough; for those that it is tested on {honest} hospitals must add theirs to "
        "the figures and keep it to themselves.",
        "读取研究全部公布内容的人猜测某位患者是否参与时，胜算最多提高到原来的 {factor} "
        "倍（结束时 ε {epsilon}，目前 {spent}；例外概率为 {delta}）。"
        "对于参与训练的患者，仅凭其所在医院自身的噪声即可保证；对于用于测试的患者，"
        "需要 {honest} 家医院在评估结果中如实加入噪声且不泄露。",
    ),
    "privacy.local": Text(
        "Even if the aggregator and all other hospitals pool what they know, the odds are "
        "bettered by the factor {factor} at most (ε {epsilon} at the end, {spent} so far; except "
        "with probability {delta}).",
        "即使聚合服务器与其他所有医院合谋共享信息，胜算最多提高到原来的 {factor} 倍（结束时 ε "
        "{epsilon}，目前 {spent}；例外概率为 {delta}）。",
    ),
    "privacy.reckoning": Text(
        "What holds even if everybody else pools what they know is being reckoned; it appears "
        "here by itself.",
        "所有其他方合谋时的上限正在计算，稍后会自动显示。",
    ),
    "privacy.none-masks": Text(
        "Masks hide each hospital's update among those of the others: the aggregator sees their sum only.",
        "掩码将每家医院的更新隐藏在其他医院之中：聚合服务器只能看到总和。",
    ),
    "privacy.none-model": Text(
        "There is no noise, so nothing limits what the finished model can reveal about one "
        "patient. Each hospital has "
        "allowed this in its own policy.",
        "没有噪声，因此无法限定最终模型可能泄露的单个患者信息。各医院已在自己的策略中允许这一点。",
    ),
    "privacy.unit": Text("what is hidden", "保护单位"),
    "privacy.patient": Text(
        "whether a patient, with all images, is in the data; at most {count} of the images count in a step",
        "一位患者（连同其全部影像）是否在数据中；每步最多使用其中 {count} 幅影像",
        one="whether a patient, with all images, is in the data; one of the images counts in a step",
    ),
    "privacy.so-far": Text("so far", "目前进度"),
    "privacy.rounds": Text(
        "{trained} of {rounds} rounds have a sum.", "{rounds} 轮中已有 {trained} 轮得到总和。"
    ),
    "privacy.evaluated": Text("The last evaluation is done.", "最终评估已完成。"),
    "privacy.mechanism": Text("mechanism", "机制"),
    "privacy.gaussian": Text(
        "Gaussian noise on clipped sums; every patient enters every step.",
        "对裁剪后的总和加高斯噪声；每步使用所有患者。",
    ),
    "privacy.sampled-gaussian": Text(
        "Gaussian noise on clipped sums; a secret draw lets each patient into a step with "
        "probability {rate}.",
        "对裁剪后的总和加高斯噪声；每步以概率 {rate} 秘密抽取每位患者。",
    ),
    "privacy.noise": Text(
        "Clipped to {clip}; noise {noise} times that, of which one hospital adds {own}.",
        "裁剪至 {clip}；噪声为其 {noise} 倍，其中每家医院加入 {own} 倍。",
    ),
    "privacy.accountant": Text("accountant", "核算方法"),
    "privacy.by-gaussian": Text(
        "exact: all steps together are one Gaussian (Balle and Wang, 2018)",
        "精确：所有步骤合为一个高斯机制（Balle 与 Wang，2018）",
    ),
    "privacy.by-loss-distribution": Text(
        "privacy loss distributions on a pessimistic grid (Doroshenko and others, 2022)",
        "在保守网格上组合隐私损失分布（Doroshenko 等，2022）",
    ),
    "privacy.cohort": Text("smallest cohort", "最小群体"),
    "privacy.least": Text(
        "{least} of {hospitals} hospitals in each sum.",
        "每个总和至少包含 {hospitals} 家医院中的 {least} 家。",
    ),
    "privacy.groups": Text(
        "Groups of fewer than {count} patients are not shown.", "少于 {count} 位患者的分组不予显示。"
    ),
    "privacy.despite": Text(
        "The author insisted on more noise than leaves much to learn.",
        "作者坚持使用了会淹没大部分信号的噪声。",
    ),
    "privacy.nothing": Text("There is no study yet that you may read.", "目前没有您可以查看的研究。"),
}
