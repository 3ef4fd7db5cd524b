"""Convergence of a study, and studies side by side."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "nav.convergence": Text("Convergence", "收敛情况"),
    "nav.comparison": Text("Comparison", "研究比较"),
    "convergence.title": Text("Convergence", "收敛情况"),
    "convergence.final": Text("The finished model: {name} {figure}", "最终模型：{name} {figure}"),
    "convergence.final-means": Text(
        "The 95 % interval on test patients of all hospitals together. Noise and the choice of "
        "patients are in it "
        "as far as they are known.",
        "所有医院测试患者合并计算的 95% 区间，已尽可能计入噪声与患者抽样的影响。",
    ),
    "convergence.last": Text(
        "{name} {figure} at the start of round {round}", "第 {round} 轮开始时：{name} {figure}"
    ),
    "convergence.last-means": Text(
        "The 95 % interval of the published model, on validation patients of all hospitals together.",
        "已发布模型在所有医院验证患者上合并计算的 95% 区间。",
    ),
    "convergence.no-figure": Text("No figure yet", "尚无指标"),
    "convergence.no-figure-means": Text(
        "No round had enough validation patients for one.", "目前各轮的验证患者均不足以计算指标。"
    ),
    "convergence.at-the-end": Text(
        "This study counts its figures once, after the last round.", "本研究只在最后一轮之后计算一次指标。"
    ),
    "convergence.nothing": Text("No round has ended yet", "尚无已结束的轮次"),
    "convergence.nothing-means": Text(
        "The first columns appear here when the first round has its sum, or has failed.",
        "第一轮得到总和或失败之后，这里会出现第一批数据。",
    ),
    "convergence.gate": Text("Compare with a gate", "与门槛值比较"),
    "convergence.compare": Text("Compare", "比较"),
    "convergence.gate-line": Text("gate {gate}", "门槛 {gate}"),
    "convergence.passed": Text("above the gate", "达到门槛"),
    "convergence.open": Text("not decided", "尚不确定"),
    "convergence.missed": Text("below the gate", "未达门槛"),
    "convergence.unknown": Text("no interval", "无区间"),
    "convergence.margin": Text(
        "From the gate of {gate} to the worse end of the interval: {margin}.",
        "从门槛 {gate} 到区间较差一端的距离：{margin}。",
    ),
    "convergence.margin-unknown": Text(
        "Without an interval nobody can say whether the gate of {gate} is passed.",
        "没有区间就无法判断是否达到门槛 {gate}。",
    ),
    "convergence.reading": Text(
        "{attempts} attempts are read, back to round {round}; earlier ones follow by themselves, "
        "a thousand at a time.",
        "已读取 {attempts} 次尝试，最早为第 {round} 轮；更早的部分会自动分批读取，每批一千次。",
    ),
    "convergence.by-round": Text("{name} by round", "各轮的 {name}"),
    "convergence.each": Text(
        "each column stands for {count} rounds; the line goes from the least to the largest figure in it",
        "每列代表 {count} 轮；竖线表示其中最小值到最大值",
    ),
    "convergence.tinted": Text(
        "Of the model that each round began with, on validation patients. The 95 % interval is tinted.",
        "每轮开始时的模型在验证患者上的指标。浅色部分为 95% 区间。",
    ),
    "convergence.time": Text("Time by round", "各轮用时"),
    "convergence.bytes": Text("Bytes by round", "各轮传输量"),
    "convergence.training": Text("training", "训练"),
    "convergence.sending": Text("masked uploads", "加掩码的上传"),
    "convergence.rest": Text("all other steps", "其他步骤"),
    "convergence.norm": Text("Length of the mean update", "平均更新的长度"),
    "convergence.norm-short": Text("update", "更新"),
    "convergence.norm-means": Text(
        "How far a round moves the model. It falls as training settles.",
        "每轮使模型移动的距离。训练趋于稳定时会减小。",
    ),
    "convergence.norm-noised": Text(
        "How far a round moves the model, noise included. With much noise it shows the noise, "
        "and does not fall.",
        "每轮使模型移动的距离，包含噪声。噪声较大时主要反映噪声，因此不会减小。",
    ),
    "convergence.no-norm": Text(
        "These rounds were made by a version that did not note it.", "这些轮次由尚未记录此值的版本完成。"
    ),
    "convergence.dropped": Text("Drop-outs", "中途退出"),
    "convergence.dropped-short": Text("drop-outs", "退出"),
    "convergence.dropped-means": Text(
        "Share of the hospitals that began a round and are not in its sum. A dotted line marks "
        "an attempt that had none.",
        "已开始某轮但未计入其总和的医院比例。虚线表示没有得到总和的尝试。",
    ),
    "convergence.newest": Text("The newest attempts", "最近的尝试"),
    "convergence.as-table": Text("All columns as a table", "以表格显示全部数据"),
    "convergence.round": Text("round", "轮次"),
    "convergence.rounds": Text("rounds", "轮次"),
    "convergence.test": Text("test", "测试"),
    "convergence.time-short": Text("took", "用时"),
    "convergence.bytes-short": Text("bytes", "传输量"),
    "convergence.up": Text("sent", "上传"),
    "convergence.down": Text("fetched", "下载"),
    "convergence.in-sum": Text("in the sum", "计入总和"),
    "convergence.of": Text("{summed} of {began}", "{began} 中的 {summed}"),
    "convergence.attempt-failed": Text("no sum", "无总和"),
    "convergence.interval-unknown": Text("(no interval known)", "（区间未知）"),
    "convergence.one-round": Text("round {round}", "第 {round} 轮"),
    "convergence.some-rounds": Text("rounds {first} to {last}", "第 {first} 至 {last} 轮"),
    "convergence.interval": Text("{interval} (best guess {figure})", "{interval}（最佳估计 {figure}）"),
    "convergence.no-interval": Text("{figure}, no interval known", "{figure}，区间未知"),
    "convergence.drowned": Text(
        "not determined: too few patients for this noise", "无法确定：患者太少，被噪声淹没"
    ),
    "convergence.failed": Text(
        "{count} attempts without a sum", "{count} 次尝试无总和", one="1 attempt without a sum"
    ),
    "convergence.dropped-of": Text("{dropped} of {began} dropped out", "{began} 家中有 {dropped} 家退出"),
    "convergence.figure-label": Text(
        "{name} with its 95 % interval, {rounds}; the table below has every value",
        "{rounds}的 {name} 及其 95% 区间；下方表格列出全部数值",
    ),
    "convergence.norm-label": Text("Length of the mean update, {rounds}", "{rounds}的平均更新长度"),
    "convergence.seconds-label": Text(
        "Time of a round by what it was spent on, {rounds}; at most {most}",
        "{rounds}每轮用时的构成；最多 {most}",
    ),
    "convergence.bytes-label": Text(
        "Bytes of a round by what they were for, {rounds}; at most {most}",
        "{rounds}每轮传输量的构成；最多 {most}",
    ),
    "convergence.dropped-label": Text(
        "Share of drop-outs, {rounds}; at most {most}", "{rounds}的退出比例；最高 {most}"
    ),
    "comparison.title": Text("Studies side by side", "研究比较"),
    "comparison.lead": Text(
        "The newest figure of each study with its 95 % interval, and what its rounds have cost of late.",
        "每项研究的最新指标及 95% 区间，以及最近各轮的开销。",
    ),
    "comparison.filter": Text("Show", "显示"),
    "comparison.all": Text("all", "全部"),
    "comparison.study": Text("study", "研究"),
    "comparison.figure": Text("newest figure", "最新指标"),
    "comparison.of-late": Text("rounds of late", "最近的轮次"),
    "comparison.round": Text("round", "轮次"),
    "comparison.seconds": Text("a round takes", "每轮用时"),
    "comparison.bytes": Text("a round moves", "每轮传输"),
    "comparison.dropped": Text("drop-outs", "退出"),
    "comparison.none": Text("no noise", "无噪声"),
    "comparison.tested": Text("on test patients", "测试患者"),
    "comparison.hospitals": Text("{count} hospitals", "{count} 家医院", one="1 hospital"),
    "comparison.spark": Text("{name}, {rounds}", "{name}，{rounds}"),
    "comparison.same-scale": Text(
        "Small drawings of the same figure share one scale. Figures of different patients are not a ranking.",
        "同一指标的小图使用相同刻度。不同患者群体的指标不能直接排名。",
    ),
    "comparison.left-out": Text(
        "{count} older studies are not shown.",
        "另有 {count} 项较早的研究未显示。",
        one="One older study is not shown.",
    ),
    "comparison.nothing": Text("No study fits.", "没有符合条件的研究。"),
}
