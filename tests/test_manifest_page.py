"""The manifest's reference page is the one that today's sections and settings make."""

from pathlib import Path

from jobs import models
from jobs.plugins import MODELS
from pipeline.manifest.reference import page
from pipeline.manifest.schema import Root

PAGE = Path(__file__).parents[1] / "docs/manifest.md"


def test_the_committed_page_is_current() -> None:
    made = page()
    assert PAGE.read_text(encoding="utf-8") == made, "docs/manifest.md is not what the code says: run make docs"


def test_the_page_names_every_key_and_every_setting() -> None:
    made = page()
    settings = {setting.name for name in MODELS.names() for setting in models.all_settings(name)}
    assert all(f"| `{name}` |" in made for name in settings | set(Root.model_fields))
