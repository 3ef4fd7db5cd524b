"""The pages of the way in. Every text is the catalogue's, or an error's or the consortium's own."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.settings import Settings
from medveil import look
from medveil.catalogue import NAMES, TAGS, Language, Speaker
from medveil.catalogue.entrance import ENTRANCE
from medveil.errors import Error

OWN_STYLE = "entrance.css"


class Painter:
    """Draws them for one consortium."""

    def __init__(self, settings: Settings) -> None:
        self._templates = look.environment("aggregator.web.entrance", {})
        self._templates.globals |= {
            "consortium": settings.title,
            "languages": NAMES,
            "tags": TAGS,
            "idle": f"{settings.sign_in.idle_minutes:g}",
            "hours": f"{settings.sign_in.hours:g}",
        }
        self.style = look.style(self._templates, OWN_STYLE)
        """The one style sheet."""

    def page(
        self,
        template: str,
        language: Language,
        *,
        back: str = "/",
        refused: Error | None = None,
        **values: object,
    ) -> str:
        """One page as HTML."""
        t = Speaker(ENTRANCE, language)
        own: Mapping[str, object] = {
            "t": t,
            "back": back,
            "refused": None if refused is None else Said(t, refused),
        }
        return self._templates.get_template(template).render({**own, **values})


class Said:
    """An error in the reader's language, where the catalogue has it; English otherwise."""

    def __init__(self, t: Speaker, error: Error) -> None:
        key = f"error.{error.code}"
        self.code, self.translated = error.code, t.knows(f"{key}.what")
        own = (error.what, error.meaning, error.remedy)
        parts = ("what", "meaning", "remedy")
        values: Mapping[str, str] = getattr(error, "values", {})
        said = [t(f"{key}.{part}", **values) for part in parts] if self.translated else list(own)
        self.what, self.meaning, self.remedy = said
        self.foreign = t.language != "en" and not self.translated
