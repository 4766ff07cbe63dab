import os
import re
import subprocess
import sys
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
