"""group_data/all.py is what the settings print, and sets nothing but their defaults."""

import runpy
import subprocess
import sys
from pathlib import Path

from r1fleet.settings import Settings, read

ROOT = Path(__file__).parents[2]
ALL = ROOT / "group_data" / "all.py"


def test_the_file_is_what_the_settings_print() -> None:
    command = [sys.executable, "-m", "r1fleet.settings"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ALL.read_text() == printed, "run: python -m r1fleet.settings > group_data/all.py"


def test_the_file_holds_every_default_with_a_comment() -> None:
    values = {key: value for key, value in runpy.run_path(str(ALL)).items() if key[0] != "_"}
    assert list(values) == list(Settings.model_fields)
    assert read("host", values) == Settings()
    lines = [line for line in ALL.read_text().splitlines() if " = " in line]
    assert all("  # " in line and len(line) <= 100 for line in lines)
