"""The command line of every tool: help, exit status, errors and existing files."""

import re

import pytest

from .conftest import TOOLS

pytest.importorskip('mmdet', reason='what the tools import')
pytest.importorskip('mmpretrain', reason='what the tools import')
pytest.importorskip('sklearn', reason='what the tools import')

# A file that a tool with --out-dir writes, whatever its arguments are
FILES = {
    'tools/analysis_tools/benchmark.py': 'benchmark.csv',
    'tools/analysis_tools/paper_tables.py': 'paper_tables.md',
}
# The files of these depend on what is in the folder or in the input; their own tests
# check that nothing is overwritten.
TESTED_APART = (
    'tools/datasets/make_digit_pairs.py',
    'tools/datasets/make_digits.py',
    'tools/deployment/run.py',
)

pytestmark = pytest.mark.parametrize('tool', TOOLS)


@pytest.fixture
def required(run_here, tool, tmp_path):
    """Return the arguments that the tool requires; no file that they name exists."""
    usage = re.search(r'usage: \S+ (.*?)\n\n', run_here(tool, '--help')[1], re.S)[1]
    optional = r'\[[^][]*\]'
    while re.search(optional, usage):
        usage = re.sub(optional, '', usage)
    argv = []
    for word in usage.replace('...', '').split():
        if word == 'H':
            argv.append('64')
        elif word.startswith('-'):
            argv.append(word)
        else:
            folder = 'new' if word.startswith('FILE') else '.'
            argv.append(tmp_path / folder / f'missing_{word}')
    return argv


def test_help(run_here, tool):
    """What the tool does in a sentence, and an example that can be pasted."""
    status, text, _ = run_here(tool, '--help')
    assert status == 0
    doc = re.sub(r'usage:.*?\n\n', '', text, flags=re.S)
    doc = re.split(r'^(?:positional arguments|options):', doc, flags=re.M)[0]
    doc = doc.splitlines()
    assert re.fullmatch(r'[A-Z].*\.', doc[0])
    assert doc[1:3] == ['', 'Example:']
    assert re.match(rf' +python[\d.]* {tool}', doc[3])
    # a longer line was two in the source, joined by a backslash
    assert max(map(len, doc)) <= 88


def test_an_unknown_argument_is_an_error_of_the_caller(run_here, tool, required):
    status, out, err = run_here(tool, *required, '--no-such-option')
    assert (status, out) == (2, '')
    assert 'unrecognized arguments: --no-such-option' in err.splitlines()[-1]


def test_a_missing_file_is_named_in_one_line(
    run_here, tool, required, tmp_path, monkeypatch
):
    inputs = [x for x in map(str, required) if re.search('missing_(?!FILE)', x)]
    if not inputs:
        pytest.skip('it takes no input')
    monkeypatch.delenv('MMGHOSTNETV2_DEBUG', raising=False)
    status, _, err = run_here(tool, *required)
    assert status == 1 and 'Traceback' not in err
    assert re.match(r'error: .*missing_', err.splitlines()[-1]), err
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv('MMGHOSTNETV2_DEBUG', '1')
    status, _, err = run_here(tool, *required)
    assert status == 1 and 'Traceback' in err
    assert re.match(r'error: .*missing_', err.splitlines()[-1]), err


def test_existing_files_are_refused_before_the_work(run_here, tool, required, tmp_path):
    text = run_here(tool, '--help')[1]
    option = re.search(r'^ +(--out(?:-dir)?) (\S+)', text, re.M)
    if not option or tool in TESTED_APART:
        pytest.skip('it writes no files of known names')
    assert '--force' in text
    if option[1] == '--out':
        out = tmp_path / option[2]
        required += ['--out', out]
    else:
        out = tmp_path / FILES[tool]
        required += ['--out-dir', tmp_path]
    out.touch()
    status, _, err = run_here(tool, *required)
    assert status == 1
    assert f'{out} exists; --force overwrites it' in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [out] and out.stat().st_size == 0
