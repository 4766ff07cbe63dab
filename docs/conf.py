"""Configuration of the documentation site: `make docs`."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / '_ext'), str(ROOT)]
# The kernel of the tutorial is a process of its own, and imports the same checkout.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
)

project = 'mmghostnetv2'
author = 'The mmghostnetv2 contributors'
copyright = '2026, the mmghostnetv2 contributors'
release = re.search(r"'(.+)'", (ROOT / 'mmghostnetv2/version.py').read_text())[1]
repository = 'https://github.com/mmghostnetv2/mmghostnetv2'

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'sphinx_design',
    'drawings',
    'source_links',
    'zoo',
]
exclude_patterns = ['_build', '_ext']
nitpicky = False

myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
highlight_language = 'bash'  # of blocks that name none
nb_execution_mode = 'force'
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings name the types
napoleon_google_docstring = True
napoleon_numpy_docstring = False
copybutton_prompt_text = '$ '

html_theme = 'furo'
html_title = f'mmghostnetv2 {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_js_files = []
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    'source_repository': repository,
    'source_branch': 'main',
    'source_directory': 'docs/',
}
