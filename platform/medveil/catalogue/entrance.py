"""What the way in to the aggregator's pages says."""

from __future__ import annotations

from medveil.catalogue import Text, Texts
from medveil.catalogue.common import COMMON

_OWN: Texts = {
    "entrance.title": Text("Sign in", "登录"),
    "entrance.lead": Text(
        "To the pages of {consortium}: studies, rounds and the audit log.",
        "进入 {consortium} 的页面：研究、轮次和审计日志。",
    ),
    "entrance.with": Text("Sign in with {title}", "使用 {title} 登录"),
    "entrance.else": Text("If that does not work", "如果无法登录"),
    "entrance.admin": Text("For the admin", "管理员"),
    "entrance.local": Text("Break-glass account", "应急账户"),
    "entrance.local-how": Text(
        "For an admin, when no sign-in service answers: a name, a password and a code.",
        "供管理员在登录服务无法使用时使用：名称、密码和验证码。",
    ),
    "entrance.local-go": Text("Sign in by it", "用它登录"),
    "entrance.name": Text("Name", "名称"),
    "entrance.password": Text("Password", "密码"),
    "entrance.code": Text("Code", "验证码"),
    "entrance.code-how": Text(
        "Six digits of the authenticator program. Each code works once.",
        "身份验证器程序中的六位数字。每个验证码只能使用一次。",
    ),
    "entrance.other": Text("Other ways to sign in", "其他登录方式"),
    "entrance.refused": Text("Not signed in", "未能登录"),
    "entrance.again": Text("Sign in", "登录"),
    "entrance.out": Text("Signed out", "已退出"),
    "entrance.leave": Text("Sign out at {title} too", "同时退出 {title}"),
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
    "error.wrong-password.what": Text(
        "The name, the password or the code is wrong.", "名称、密码或验证码不正确。"
    ),
    "error.wrong-password.meaning": Text(
        "Nothing was shown. A code works once, and for about a minute.",
        "没有显示任何内容。每个验证码只能使用一次，有效期约一分钟。",
    ),
    "error.wrong-password.remedy": Text(
        "Wait for the next code and try again. On the machine: “medveil aggregator page”.",
        "请等待下一个验证码后重试。在服务器上可运行“medveil aggregator page”。",
    ),
    "error.too-many-requests.what": Text(
        "There were too many tries in a short time.", "短时间内尝试次数过多。"
    ),
    "error.too-many-requests.meaning": Text(
        "For a while nothing that is typed here is looked at, not even what is right.",
        "暂时不会检查这里输入的任何内容，即使是正确的。",
    ),
    "error.too-many-requests.remedy": Text(
        "Wait half a minute. A link of the machine works meanwhile: “medveil aggregator page”.",
        "请等待半分钟。期间服务器上的链接仍然可用：“medveil aggregator page”。",
    ),
    "error.provider-away.what": Text(
        "The sign-in service “{provider}” cannot be reached: {reason}.",
        "无法连接登录服务“{provider}”：{reason}。",
    ),
    "error.provider-away.meaning": Text(
        "Nobody was signed in by it. The aggregator itself works, and so do other ways in.",
        "没有人通过它登录。聚合服务器本身和其他登录方式均正常。",
    ),
    "error.provider-away.remedy": Text(
        "Try again later. An admin gets in by a break-glass account, or by a link of the machine.",
        "请稍后重试。管理员可以使用应急账户或服务器上的链接登录。",
    ),
    "error.sign-in-unproven.what": Text(
        "What the sign-in service “{provider}” said proves nothing: {problem}.",
        "登录服务“{provider}”的应答不能证明任何身份：{problem}。",
    ),
    "error.sign-in-unproven.meaning": Text(
        "Somebody may have tampered with it, or the service is set up otherwise than here.",
        "应答可能被篡改，或者该服务的设置与此处不一致。",
    ),
    "error.sign-in-unproven.remedy": Text(
        "Sign in again. If it stays, the admin compares both sides' settings: “medveil aggregator people "
        "providers”.",
        "请重新登录。如果问题依旧，请管理员核对双方的设置：“medveil aggregator people providers”。",
    ),
    "error.sign-in-denied.what": Text(
        "The sign-in service “{provider}” did not let you in ({reason}).",
        "登录服务“{provider}”拒绝了您的登录（{reason}）。",
    ),
    "error.sign-in-denied.meaning": Text(
        "It was its decision; here nothing was looked at.", "这是该服务的决定；此处没有查看任何内容。"
    ),
    "error.sign-in-denied.remedy": Text(
        "Sign in there with another account, or ask those who run that service.",
        "请换一个账户登录，或联系该服务的管理者。",
    ),
    "error.sign-in-strayed.what": Text(
        "This browser has begun no sign-in to which this would be the answer.",
        "此浏览器没有发起过与此应答对应的登录。",
    ),
    "error.sign-in-strayed.meaning": Text(
        "It took longer than ten minutes, was used before, or somebody else began it.",
        "可能已超过十分钟、已被使用过，或由他人发起。",
    ),
    "error.sign-in-strayed.remedy": Text("Begin again, in one window.", "请在同一个窗口中重新开始。"),
    "error.no-role-here.what": Text(
        "This account has no role in this consortium.", "此账户在本联盟中没有角色。"
    ),
    "error.no-role-here.meaning": Text(
        "The sign-in service has vouched for it, and no rule of the consortium's admin fits it.",
        "登录服务已确认该账户，但联盟管理员的规则中没有与之匹配的。",
    ),
    "error.no-role-here.remedy": Text(
        "Ask the consortium's admin for a role, or sign in with another account.",
        "请向联盟管理员申请角色，或使用其他账户登录。",
    ),
    "error.not-found.what": Text("There is no such way in here.", "这里没有这种登录方式。"),
    "error.not-found.meaning": Text("Nothing was done.", "没有执行任何操作。"),
    "error.not-found.remedy": Text("Begin again at the sign-in page.", "请从登录页面重新开始。"),
    "error.bad-request.what": Text("The form cannot be read.", "无法读取该表单。"),
    "error.bad-request.meaning": Text("Nothing was done.", "没有执行任何操作。"),
    "error.bad-request.remedy": Text("Open the page again and fill it in there.", "请重新打开页面后填写。"),
}
ENTRANCE: Texts = {**COMMON, **_OWN, **_ERRORS}
"""Every text of the way in."""
