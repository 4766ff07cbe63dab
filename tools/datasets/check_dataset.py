"""Check the images and labels of a config's datasets before training on them.

Example:
    python tools/datasets/check_dataset.py yolov3_ghostnetv2_320 --json findings.json

CONFIG is a config of mmpretrain, mmdet or mmseg. Every image and mask is decoded. An
error is what makes a training fail or learn something wrong in silence; the exit status
is 1 if there is any. A warning is worth knowing. The table has the first files or ids
of each kind of finding; --json writes all of them.
"""

import json
from pathlib import Path

from mmghostnetv2.arguments import (
    add_config,
    load_config,
    make_parser,
    named_errors,
    run_tool,
)
from mmghostnetv2.data_checks import SPLITS, check_config
from mmghostnetv2.output import markdown_table, require_free, written

MAX_EXAMPLES = 3  # of each kind in the table


def tabulate(findings):
    """Return the findings as the lines of a Markdown table, then what they mean."""
    rows = [('split', 'severity', 'kind', 'first of them', 'count')]
    for finding in findings:
        first = '; '.join(finding['items'][:MAX_EXAMPLES])
        texts = [finding[key] for key in ('split', 'severity', 'kind')]
        rows.append([*texts, first.replace('|', r'\|'), finding['count']])
    meanings = {finding['kind']: finding['meaning'] for finding in findings}
    legend = [f'- {kind}: {meaning}' for kind, meaning in meanings.items()]
    return [*markdown_table(rows, numbers=1), '', *legend]


def main(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, checkpoint=None)
    add = parser.add_argument
    text = 'datasets to check (default: those that the config has)'
    add('--splits', nargs='+', choices=SPLITS, help=text)
    add('--json', metavar='FILE.json', type=Path, help='file of all findings')
    add('--force', action='store_true', help='overwrite an existing file')
    args = parser.parse_args(argv)
    if args.json:
        require_free([args.json], args.force)
    with named_errors(args.config):
        report = check_config(load_config(args), args.splits)
    findings = report.to_list()
    for dataset in report.datasets:
        note = f'; {dataset["note"]}' if dataset['note'] else ''
        print('{split}: {type}, {images} images'.format(**dataset) + note)
    print('', *(tabulate(findings) if findings else ['nothing found']), sep='\n')
    if args.json:
        result = dict(config=args.config, datasets=report.datasets, findings=findings)
        with written(args.json) as path:
            path.write_text(json.dumps(result, indent=1))
    errors = sum(x['count'] for x in findings if x['severity'] == 'error')
    if errors:
        plural = 's' if errors > 1 else ''
        raise ValueError(f'{args.config}: the data have {errors} error{plural}')


if __name__ == '__main__':
    run_tool(main)
