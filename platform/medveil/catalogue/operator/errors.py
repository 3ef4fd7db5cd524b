"""What the page itself refuses; errors of others stand in their own words."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

ERRORS: Texts = {
    "error.page-foreign-host.what": Text(
        "The request names another host than this page.", "请求中的主机名不是本页面。"
    ),
    "error.page-foreign-host.meaning": Text(
        "A web site elsewhere could send it under a name of its own, so it was not looked at.",
        "其他网站可能用自己的域名发送它，因此未予处理。",
    ),
    "error.page-foreign-host.remedy": Text(
        "Open the page by the address that “medveil node page” printed.",
        "请用“medveil node page”显示的地址打开页面。",
    ),
    "error.page-cross-site.what": Text(
        "The request comes from another page than this one.", "请求来自另一个页面。"
    ),
    "error.page-cross-site.meaning": Text(
        "Another site may have made this browser send it. Nothing was done.",
        "可能是其他网站让浏览器发送的。没有执行任何操作。",
    ),
    "error.page-cross-site.remedy": Text(
        "If it was you: open the page itself and do it there.", "如果是您本人的操作：请直接打开本页面再操作。"
    ),
    "error.page-forged-form.what": Text(
        "The form was not made by this page for this browser.", "该表单不是本页面为此浏览器生成的。"
    ),
    "error.page-forged-form.meaning": Text(
        "It is too old, or somebody has made it up. Nothing was done.",
        "表单已过期，或系伪造。没有执行任何操作。",
    ),
    "error.page-forged-form.remedy": Text("Reload the page and fill it in again.", "请刷新页面后重新填写。"),
    "error.page-bad-form.what": Text(
        "The form is too large, or lacks what it must say.", "表单过大，或缺少必填内容。"
    ),
    "error.page-bad-form.meaning": Text("Nothing was done.", "没有执行任何操作。"),
    "error.page-bad-form.remedy": Text("Reload the page and fill it in again.", "请刷新页面后重新填写。"),
    "error.page-signed-out.what": Text(
        "Nobody is signed in at this browser, or it was too long ago.", "此浏览器未登录，或登录已失效。"
    ),
    "error.page-signed-out.meaning": Text("Nothing was shown or done.", "没有显示或执行任何内容。"),
    "error.page-signed-out.remedy": Text(
        "Sign in with the password, or with the newest link in the terminal of “medveil node page”.",
        "请用密码，或“medveil node page”终端里最新的链接登录。",
    ),
    "error.page-used-link.what": Text(
        "This link opens nothing: it was used, or was never given out.", "此链接无效：已被使用，或从未发出。"
    ),
    "error.page-used-link.meaning": Text(
        "Each link works once. If it was not you: stop the page, find out who reads its terminal.",
        "每个链接只能使用一次。如果不是您使用的，请停止页面并查明谁能看到其终端。",
    ),
    "error.page-used-link.remedy": Text(
        "Take the newest link in the terminal of “medveil node page”.",
        "请使用“medveil node page”终端里最新的链接。",
    ),
    "error.page-wrong-password.what": Text("The password is wrong.", "密码错误。"),
    "error.page-wrong-password.meaning": Text("Nothing was shown.", "没有显示任何内容。"),
    "error.page-wrong-password.remedy": Text(
        "Type it again, or use the newest link in the terminal.", "请重新输入，或使用终端里最新的链接。"
    ),
    "error.page-too-many-tries.what": Text("There were too many wrong passwords.", "密码错误次数过多。"),
    "error.page-too-many-tries.meaning": Text(
        "For a minute no password is looked at, not even the right one.",
        "一分钟内不再验证任何密码，包括正确的密码。",
    ),
    "error.page-too-many-tries.remedy": Text(
        "Wait, or use the newest link in the terminal.", "请稍候，或使用终端里最新的链接。"
    ),
    "error.page-no-such-part.what": Text("There is nothing at this address.", "此地址没有内容。"),
    "error.page-no-such-part.meaning": Text("Nothing was done.", "没有执行任何操作。"),
    "error.page-no-such-part.remedy": Text("Go to the page's beginning.", "请返回首页。"),
    "error.page-failed.what": Text("The page could not do this.", "页面无法完成此操作。"),
    "error.page-failed.meaning": Text(
        "It is not known whether all of it was done; the log tells the kind of fault.",
        "不确定是否全部完成；日志中有故障类别。",
    ),
    "error.page-failed.remedy": Text(
        "Reload the page and look. The command at each panel does the same as the page.",
        "请刷新页面查看。每个面板下的命令与页面功能相同。",
    ),
    "error.page-other-words.what": Text(
        "The twelve words are not those of this plan.", "十二个单词与此计划不符。"
    ),
    "error.page-other-words.meaning": Text(
        "The plan was not approved. If the admin read you these words, the plan here is another one.",
        "计划未被批准。如果管理员念的就是这些单词，则此处的计划是另一个。",
    ),
    "error.page-other-words.remedy": Text(
        "Compare all twelve by telephone again. If they differ, refuse this plan and tell the admin.",
        "请再次通过电话核对全部十二个单词。如不一致，请拒绝此计划并告知管理员。",
    ),
    "error.page-shown-otherwise.what": Text(
        "The patients in the images folder are not those that the page has shown.",
        "影像文件夹中的患者与页面显示的不一致。",
    ),
    "error.page-shown-otherwise.meaning": Text(
        "The plan was not approved: an approval freezes exactly what was seen.",
        "计划未被批准：批准只固定您所看到的内容。",
    ),
    "error.page-shown-otherwise.remedy": Text(
        "Look at the request again; its numbers are those of now.", "请重新查看请求；其中的数字已更新。"
    ),
}
