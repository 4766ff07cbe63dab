import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import ROOT

PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')])


@pytest.fixture(scope='session')
def site(shared_folder) -> Path:
    """Build the site as `make docs` does, once; return its folder."""
    for package in ('sphinx', 'myst_nb', 'furo', 'sphinx_copybutton', 'sphinx_design'):
        pytest.importorskip(package, reason='builds the site')
    pytest.importorskip('mmdet', reason='the API page imports all of the package')
    pytest.importorskip('sklearn', reason="the tutorial's digits are scikit-learn's")

    def build(folder):
        recipe = re.search(r'-m (sphinx .*) docs ', (ROOT / 'Makefile').read_text())[1]
        command = [sys.executable, '-m', *recipe.split(), 'docs', folder / 'html']
        env = {**os.environ, 'PYTHONWARNINGS': 'ignore'}
        done = subprocess.run(
            command, cwd=ROOT, env=env, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]

    return shared_folder('site', build) / 'html'


@dataclass
class Block:
    """A fenced block of a page: language, code, and the comment right before it."""

    language: str
    code: str
    note: str
    line: int


def fenced_blocks(text) -> list[Block]:
    """Return the fenced blocks of a page that show code, not directives of the site."""
    pattern = r'(?m)^(?:<!-- (.+?) -->\n)?^( *)```([\w{}-]*)[^\n]*\n(.*?)^\2```$'
    return [
        Block(
            language=match[3],
            code=textwrap.dedent(match[4]),
            note=match[1] or '',
            line=text[: match.start(3)].count('\n') + 1,
        )
        for match in re.finditer(pattern, text, re.S)
        if not match[3].startswith('{')
    ]
