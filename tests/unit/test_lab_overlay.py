"""Models of any size for the lab's public registry."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab import overlay
from lab.cli import lab
from lab.shell import Refusal


def test_a_model_lies_where_its_urls_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1_LAB_DIR", str(tmp_path))
    told = overlay.add("deepseek-r1:1.5b", 3)
    place = tmp_path / "www/public/v2/library/deepseek-r1"
    manifest = (place / "manifests/1.5b").read_bytes()
    assert told["digest"] == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    content = json.loads(manifest)
    sizes = {layer["digest"]: layer["size"] for layer in (*content["layers"], content["config"])}
    for digest, size in sizes.items():
        data = (place / "blobs" / digest).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        assert len(data) == size
    assert told["size_bytes"] == sum(sizes.values())
    assert 3_000_000 < sum(sizes.values()) < 6_000_000
    overlay.clear()
    assert not (tmp_path / "www/public").exists()


def test_a_name_without_a_tag_is_refused() -> None:
    with pytest.raises(Refusal, match="names no tag"):
        overlay.add("deepseek-r1", 1)


@pytest.mark.parametrize("rate", ["0", "fast", "1.5"])
def test_a_wan_without_a_rate_is_refused(rate: str) -> None:
    result = CliRunner().invoke(lab, ["wan", rate])
    assert result.exit_code == 2
    assert "is no rate" in result.output
