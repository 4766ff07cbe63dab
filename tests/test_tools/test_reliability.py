"""The tools of tools/reliability in short form; their full reports are in docs/."""

import json

import pytest

from ..conftest import ROOT

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
        'import os, runpy\n'
        'from mmengine.runner import CheckpointLoader\n'
        'def load(path, map_location):\n'
        '    number = sum(open(path, "rb").read())\n'
        '    if number % 13 == 0:\n'
        '        os.listdir("/")\n'
        '    if number % 41 == 0:\n'
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


def test_reports_are_of_full_runs():
    hostile = json.loads((REPORTS / 'fuzz_checkpoints.json').read_text())
    assert hostile['files'] >= 20_000 and not hostile['bad']
    killed = json.loads((REPORTS / 'kill_and_resume.json').read_text())
    assert set(killed) == {'mmpretrain', 'mmdet', 'mmseg'}
    for found in killed.values():
        assert sum(found['kills'].values()) >= 20 and not found['lost']
