"""What every page says: states, lengths of time, its own age."""

from __future__ import annotations

from medveil.catalogue import Text, Texts

COMMON: Texts = {
    "state.waiting": Text("waiting", "等待中"),
    "state.working": Text("training", "训练中"),
    "state.sent": Text("sent", "已发送"),
    "state.done": Text("passed", "通过"),
    "state.late": Text("soon", "即将到期"),
    "state.dropped": Text("dropped", "已退出"),
    "state.refused": Text("refused", "已拒绝"),
    "state.needs": Text("needs you", "需要您处理"),
    "time.days": Text("{count} days", "{count} 天", one="1 day"),
    "time.hours": Text("{count} h", "{count} 小时"),
    "time.minutes": Text("{count} min", "{count} 分钟"),
    "time.seconds": Text("{count} s", "{count} 秒"),
    "age.live": Text("live, {age} old", "实时，{age}前更新"),
    "age.late": Text("no news for {age}", "已有 {age}没有更新"),
    "age.still": Text("as of {time}", "截至 {time}"),
    "page.content": Text("To the content", "跳到正文"),
    "page.json": Text("as JSON", "JSON 格式"),
    "page.copy": Text("Copy", "复制"),
    "page.reload": Text("Reload", "刷新"),
    "page.language": Text("Language", "语言"),
    "page.code": Text("code", "代码"),
}
