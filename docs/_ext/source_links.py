"""Links of the pages to files of the repository that are no pages.

On GitHub a page can link to ``../configs/name.py``. The site has no such file, so the
link goes to the file on GitHub.
"""

import re
from pathlib import Path

LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))')
SERVED = ('.png', '.jpg', '.svg')


def link_to_repository(app, docname, source):
    """Replace the links of a page that lead to no page and no picture."""
    docs = Path(app.srcdir).resolve()
    repository = app.config.html_theme_options['source_repository']
    page = Path(app.env.doc2path(docname)).resolve()

    def replace(match):
        target = (page.parent / match[1]).resolve()
        inside = target.is_relative_to(docs)
        if not target.exists() or (inside and target.suffix in ('.md', '.ipynb')):
            return match[0]  # Sphinx resolves it, or warns
        if inside and target.suffix in SERVED:
            return match[0]
        kind = 'tree' if target.is_dir() else 'blob'
        path = target.relative_to(docs.parent).as_posix()
        return f'{repository}/{kind}/main/{path}{match[2]}'

    source[0] = LINK.sub(replace, source[0])


def setup(app):
    """Register the rewriting of links."""
    app.connect('source-read', link_to_repository)
    return {'parallel_read_safe': True}
