"""The reference of the commands has each of them, as it describes itself."""

from __future__ import annotations

from docs.site.commands import reference, sources


def test_every_command_says_its_options() -> None:
    page = reference()
    commands = {path.parent.name if path.stem == "__main__" else path.stem for path in sources()}
    assert commands >= {"dashboard", "enqueue", "report", "rerun", "studies", "watch"}
    sections = page.split("\n## ")[1:]
    assert len(sections) == len(commands)
    for section in sections:
        name = section.partition("`python -m ")[2].partition("`")[0]
        assert name.removeprefix("sweep.") in commands
        assert f"usage: python -m {name} " in section
        assert "--help" in section
