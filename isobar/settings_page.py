"""Write ``docs/settings.md``: every setting with its default and what it means."""

from pathlib import Path

from pipelines.settings_table import settings_page

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

if __name__ == "__main__":
    PAGE.write_text(settings_page(), "utf-8")
