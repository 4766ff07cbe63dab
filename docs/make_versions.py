"""Write the table of pins in docs/versions.md from the requirement files.

Example:
    python docs/make_versions.py
"""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
MARK = '<!-- pins: docs/make_versions.py -->'


def pins():
    """Return lines of a table: distribution, version, and the file that pins it."""
    for name in 'stack', 'openmmlab', 'onedl', 'mmcv', 'litert':
        text = (DOCS.parent / f'requirements/{name}.txt').read_text()
        for dist, version in re.findall(r'(?m)^([\w.-]+)={2,3}(\S+)', text):
            yield f'| {dist} | {version} | [{name}.txt](../requirements/{name}.txt) |'


def main():
    page = DOCS / 'versions.md'
    head, _, tail = page.read_text().split(MARK)
    table = ['| distribution | version | pinned in |', '| --- | --- | --- |', *pins()]
    page.write_text(MARK.join([head, '\n' + '\n'.join(table) + '\n', tail]))


if __name__ == '__main__':
    main()
