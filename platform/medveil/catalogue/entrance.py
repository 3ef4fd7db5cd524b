"""What the way in to the aggregator's pages says."""

from __future__ import annotations

from medveil.catalogue import Text, Texts
from medveil.catalogue.common import COMMON

_OWN: Texts = {
    "entrance.title": Text("Sign in", "登录"),
    "entrance.refused": Text("Not signed in", "未能登录"),
    "entrance.again": Text("Sign in", "登录"),
    "entrance.out": Text("Signed out", "已退出"),
    "entrance.out-means": Text(
        "This browser shows nothing of the consortium any more. Where you signed in with your hospital's or "
        "university's account, that account may still be signed in at its own page.",
        "此浏览器不再显示联盟的任何内容。如果您是用医院或大学的账户登录的，该账户可能在其自己的页面上仍处于登录状态。",
    ),
    "entrance.limits": Text(
        "A session ends after {idle} minutes without you, and after {hours} hours",
        "{idle} 分钟无操作或满 {hours} 小时后，会话自动结束",
    ),
    "entrance.machine": Text("On the aggregator's machine", "在聚合服务器上"),
    "entrance.machine-how": Text(
        "Whoever works on that machine is the admin. This command prints a link that opens once, within a "
        "minute:",
        "能操作该服务器的人就是管理员。此命令显示一个链接，一分钟内有效，只能使用一次：",
    ),
}
_ERRORS: Texts = {
    "error.used-up.what": Text(
        "This link or code opens nothing: it was used, is too old, or was never given out.",
        "此链接或验证码无效：已被使用、已过期，或从未发出过。",
    ),
    "error.used-up.meaning": Text(
        "Each works once and for a short time. Nobody was signed in.",
        "每个只能在短时间内使用一次。没有人登录。",
    ),
    "error.used-up.remedy": Text(
        "Take a new one. If somebody else used it: “medveil aggregator people sessions” says who is signed "
        "in.",
        "请获取新的。如果被他人使用过：“medveil aggregator people sessions”会显示谁已登录。",
    ),
    "error.person-revoked.what": Text(
        "This person's access to this consortium was ended.", "此人访问本联盟的权限已被终止。"
    ),
    "error.person-revoked.meaning": Text(
        "Nobody was signed in, and nothing was shown.", "没有人登录，也没有显示任何内容。"
    ),
    "error.person-revoked.remedy": Text("Ask the consortium's admin.", "请联系联盟管理员。"),
    "error.forged-form.what": Text(
        "The form was not made here for this browser.", "该表单不是本页面为此浏览器生成的。"
    ),
    "error.forged-form.meaning": Text(
        "It is too old, or another site has made this browser send it. Nothing was done.",
        "表单已过期，或是其他网站让浏览器发送的。没有执行任何操作。",
    ),
    "error.forged-form.remedy": Text("Open the page again and fill it in there.", "请重新打开页面后填写。"),
}
ENTRANCE: Texts = {**COMMON, **_OWN, **_ERRORS}
"""Every text of the way in."""
