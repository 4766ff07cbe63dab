"""The tools of tools/reliability in short form; their full reports are in docs/."""

import ast
import json
import re
import sys

import pytest

from ..conftest import ROOT
from .conftest import load_tool

TOOLS = ROOT / 'tools' / 'reliability'
REPORTS = ROOT / 'docs' / 'reliability'


def test_hostile_checkpoints(run_script, tmp_path):
    run_script(
        TOOLS / 'fuzz_checkpoints.py', '--files', 500, '--seed', 10**6,
        '--out', tmp_path / 'report.json',
    )  # fmt: skip
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['files'] == 500 and not report['bad']
    assert set(report['outcomes']) == {'loaded', 'refused'}


def test_harm_is_noticed(run_script, tmp_path):
    """A loader that runs what it reads fails the same test."""
    script = tmp_path / 'harmful.py'
    script.write_text(
        'import itertools, os, runpy\n'
        'from mmengine.runner import CheckpointLoader\n'
        'calls = itertools.count()\n'
        'def load(path, map_location):\n'
        '    call = next(calls)  # the first four are of harmless files\n'
        '    if call % 13 == 12:\n'
        '        os.listdir("/")\n'
        '    if call == 40:\n'
        '        os.abort()\n'
        'CheckpointLoader.load_checkpoint = staticmethod(load)\n'
        f'runpy.run_path({str(TOOLS / "fuzz_checkpoints.py")!r}, run_name="__main__")\n'
    )
    out = tmp_path / 'report.json'
    run_script(script, '--files', 200, '--out', out, expect=1)
    assert {'executed', 'crashed'} <= set(json.loads(out.read_text())['outcomes'])


def test_killed_trainings(run_script, tmp_path):
    pytest.importorskip('mmpretrain', reason='it trains')
    pytest.importorskip('sklearn', reason='the digits are from there')
    out = tmp_path / 'report.json'
    tool = TOOLS / 'kill_and_resume.py'
    run_script(tool, '--libraries', 'mmpretrain', '--kills', 1, '--out', out)
    found = json.loads(out.read_text())['mmpretrain']
    assert found['completed'] and not found['lost'] and not found['left']


MUTATED = 'mmghostnetv2/models/squeeze_excite.py'
ROUNDED = 'rounded'  # a word in each line of make_divisible's body
ROUNDS = """
from mmghostnetv2.models.squeeze_excite import make_divisible

def test_rounds():
    for x in range(1, 90):
        allowed = [y for y in range(4, 99, 4) if y >= 0.9 * x]
        assert make_divisible(x) == min(allowed, key=lambda y: (abs(y - x), -y))
"""


@pytest.fixture
def mutate(run_here, run_script, tmp_path):
    """Run a few mutants; return the exit status and the report."""
    # run_script has the processes forked from one that the tests share.
    pytest.importorskip('cosmic_ray', reason='it makes the mutants')
    out = tmp_path / 'report.json'

    def run(test, *args):
        (tmp_path / 'test_it.py').write_text(test)
        args = '--files', MUTATED, '--tests', tmp_path / 'test_it.py', *args
        args = *args, '--out', out, '--force'
        status, _, err = run_here('tools/reliability/mutate.py', *args)
        return status, json.loads(out.read_text()) if out.exists() else err

    return run


def test_mutants(mutate, tmp_path):
    """A test of one function notices mutants of this function, and no others."""
    status, report = mutate('def test_nothing():\n    pass\n', '--sample', 5)
    assert status == 1 and report['noticed'] == 0
    counts = report['files'][MUTATED]
    assert counts.pop('mutants') > 50
    assert counts == dict(killed=0, hung=0, survived=5)
    lines = (ROOT / MUTATED).read_text().splitlines()
    for mutant in report['survived']:
        assert lines[mutant['line'] - 1].strip() == mutant['before'] != mutant['after']
    seen = [mutant for mutant in report['survived'] if ROUNDED in mutant['before']]
    again = '--survivors-of', tmp_path / 'report.json', '--minimum', 0
    status, report = mutate(ROUNDS, *again)
    assert status == 0 and seen
    counts = report['files'][MUTATED]
    assert (counts['killed'], counts['survived']) == (len(seen), 5 - len(seen))
    assert report['noticed'] == len(seen) / 5
    assert not [mutant for mutant in report['survived'] if mutant in seen]


def test_tests_that_fail_anyway_notice_no_mutant(mutate):
    status, said = mutate('def test_it():\n    assert not 1\n', '--sample', 1)
    assert status == 1 and 'test_it.py fails without any change' in said


def test_cosmic_ray_is_missing(run_here, monkeypatch):
    for name in ('cosmic_ray', *(x for x in sys.modules if 'cosmic_ray.' in x)):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, err = run_here('tools/reliability/mutate.py')
    (pin,) = re.findall(
        r'cosmic-ray==\S+', (ROOT / 'requirements/stack.txt').read_text()
    )
    assert status == 1 and err.splitlines()[-1].endswith(f'pip install {pin}')


def test_annotations_are_not_mutated():
    pytest.importorskip('cosmic_ray', reason='it makes the mutants')
    tool = load_tool(TOOLS / 'mutate.py')

    def annotations(code):
        nodes = list(ast.walk(ast.parse(code)))
        found = [getattr(node, 'annotation', None) for node in nodes]
        found += [getattr(node, 'returns', None) for node in nodes]
        return [ast.unparse(node) for node in found if node]

    file = 'mmghostnetv2/models/recompute.py'
    source = (ROOT / file).read_text()
    mutants = tool.mutants_of(file)
    assert len({mutant.code for mutant in mutants} - {source}) == len(mutants) > 5
    assert any('|' in text for text in annotations(source))
    for mutant in mutants:
        assert annotations(mutant.code) == annotations(source)


def test_reports_are_of_full_runs():
    hostile = json.loads((REPORTS / 'fuzz_checkpoints.json').read_text())
    assert hostile['files'] >= 20_000 and not hostile['bad']
    mutants = json.loads((REPORTS / 'mutations.json').read_text())
    assert len(mutants['files']) == 14 and mutants['noticed'] >= 0.85
    killed = json.loads((REPORTS / 'kill_and_resume.json').read_text())
    assert set(killed) == {'mmpretrain', 'mmdet', 'mmseg'}
    for found in killed.values():
        assert sum(found['kills'].values()) >= 20 and not found['lost']
