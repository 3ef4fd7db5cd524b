"""Hospitals and enrolment."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

TEXTS: Texts = {
    "hospitals.title": Text("Hospitals", "医院"),
    "hospitals.count": Text("{count} hospitals", "{count} 家医院", one="One hospital"),
    "hospitals.filter": Text("Show", "显示"),
    "hospitals.all": Text("all", "全部"),
    "hospitals.reach": Text("in reach", "在线"),
    "hospitals.silent": Text("silent", "无联系"),
    "hospitals.idle": Text("no study to work on", "没有可参加的研究"),
    "hospitals.not-due": Text("not there", "不在线"),
    "hospitals.revoked": Text("revoked", "已吊销"),
    "hospitals.never": Text("never heard from", "从未联系"),
    "hospitals.name": Text("hospital", "医院"),
    "hospitals.heard": Text("last heard", "最近联系"),
    "hospitals.version": Text("version", "版本"),
    "hospitals.clock": Text("clock", "时钟偏差"),
    "hospitals.certificate": Text("certificate until", "证书有效期至"),
    "hospitals.rounds": Text("rounds of late", "最近的轮次"),
    "hospitals.taken": Text("{taken} taken, {missed} missed", "参加 {taken}，缺席 {missed}"),
    "hospitals.studies": Text("studies", "研究"),
    "hospitals.key": Text("key", "密钥"),
    "hospitals.none": Text("No hospital is enrolled yet.", "还没有医院加入。"),
    "hospitals.none-such": Text("None is in this state.", "没有处于此状态的医院。"),
    "enrolment.title": Text("Enrolment", "加入"),
    "enrolment.open": Text(
        "{count} invitations are open", "{count} 份邀请待使用", one="One invitation is open"
    ),
    "enrolment.nobody": Text("Nobody is expected", "没有待加入者"),
    "enrolment.lead": Text(
        "An invitation brings one party in, once. Compare fingerprints by telephone before the first study.",
        "每份邀请只能让一方加入一次。第一项研究开始前，请通过电话核对指纹。",
    ),
    "enrolment.everybody": Text("Who was invited, and who has come", "受邀者与已加入者"),
    "enrolment.name": Text("name", "名称"),
    "enrolment.role": Text("role", "角色"),
    "enrolment.state": Text("state", "状态"),
    "enrolment.until": Text("until", "有效期至"),
    "enrolment.key": Text("fingerprint of the key", "密钥指纹"),
    "enrolment.state.open": Text("open", "待使用"),
    "enrolment.state.expired": Text("expired", "已过期"),
    "enrolment.state.taken-back": Text("taken back", "已收回"),
    "enrolment.state.enrolled": Text("enrolled", "已加入"),
    "enrolment.state.revoked": Text("revoked", "已吊销"),
    "enrolment.compare": Text(
        "A hospital sees its own fingerprint with “medveil node status”.",
        "医院可用“medveil node status”查看自己的指纹。",
    ),
    "enrolment.none": Text("Nobody was invited yet.", "尚未邀请任何人。"),
    "enrolment.how": Text("To invite, and to take back", "邀请与收回"),
    "enrolment.how-means": Text(
        "Both are done on the aggregator's machine: nothing here changes anything.",
        "两者都在聚合服务器上操作：本页面不会更改任何内容。",
    ),
}
