"""mmghostnetv2.output: files, tables, progress, and configs of trainings."""

import pytest
from mmengine.config import Config

from mmghostnetv2.output import (
    markdown_table,
    progress,
    require_free,
    require_same_config,
    written,
)


def test_files_appear_together(tmp_path):
    out = tmp_path / 'new' / 'folder' / 'a.txt'
    with written(out) as path:
        path.write_text('one')
        path.with_name('b.txt').write_text('two')
        assert not [p for p in out.parent.iterdir() if p.name in ('a.txt', 'b.txt')]
    assert {p.name: p.read_text() for p in out.parent.iterdir()} == {
        'a.txt': 'one',
        'b.txt': 'two',
    }


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_file_and_no_folder(tmp_path, error):
    (tmp_path / 'a.txt').write_text('old')
    for out in (tmp_path / 'a.txt', tmp_path / 'new' / 'folder' / 'a.txt'):
        with pytest.raises(error), written(out) as path:
            path.write_text('half')
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


def test_a_full_disk_is_named(tmp_path):
    out = tmp_path / 'new' / 'a.txt'
    full = pytest.raises(OSError, match='a.txt cannot be written: No space left on')
    with full, written(out), open('/dev/full', 'w') as file:
        file.write('half')
    assert not list(tmp_path.iterdir())


def test_a_terminated_tool_leaves_no_file_and_no_folder(tmp_path, run_script):
    """In a process of its own, because a signal can end the one that runs the tests."""
    script, out = tmp_path / 'tool.py', tmp_path / 'out'
    script.write_text(f"""
import os, signal, sys, time
from pathlib import Path
from mmghostnetv2.output import written
before = signal.getsignal(signal.SIGTERM)
try:
    with written(Path({str(out / 'new' / 'a.txt')!r})) as path:
        path.write_text('half')
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # the handler ends it
finally:
    print('as before:', signal.getsignal(signal.SIGTERM) == before)
""")
    assert 'as before: True' in run_script(script, expect=143)
    assert not out.exists()


def test_a_folder_is_replaced(tmp_path):
    for content in ('old', 'new'):
        with written(tmp_path / 'set') as path:
            path.mkdir()
            (path / f'{content}.txt').touch()
    assert [p.name for p in tmp_path.rglob('*')] == ['set', 'new.txt']


def test_what_cannot_be_written_is_refused(tmp_path):
    file, new = tmp_path / 'a.txt', tmp_path / 'new' / 'b.txt'
    file.touch()
    require_free([new], force=False)
    with pytest.raises(FileExistsError, match=r'a\.txt exists; --force overwrites it'):
        require_free([new, file], force=False)
    require_free([new, file], force=True)
    with pytest.raises(IsADirectoryError, match=f'{tmp_path} is a folder'):
        require_free([tmp_path], force=True)
    with pytest.raises(NotADirectoryError, match=r'a\.txt is not a folder'):
        require_free([file / 'new' / 'c.txt'], force=False)


def test_a_changed_config_is_not_mixed_in(tmp_path):
    path, work_dir = tmp_path / 'config.py', tmp_path / 'work'
    path.write_text('epochs = 3')
    for _ in range(2):
        require_same_config(work_dir, Config.fromfile(path))
    path.write_text('epochs = 4')
    with pytest.raises(FileExistsError, match=r'config\.py has changed since .*work: '):
        require_same_config(work_dir, Config.fromfile(path))


def test_markdown():
    rows = [('name', 'a', 'b'), ('x', 1, '2.0')]
    assert markdown_table(rows, numbers=2) == [
        '| name | a | b |',
        '| --- | ---: | ---: |',
        '| x | 1 | 2.0 |',
    ]


def test_progress_without_a_terminal_ends_with_one_line(capsys):
    assert list(progress(iter('abc'), 'letters', total=3)) == [*'abc']
    assert capsys.readouterr().err == 'letters: 3 of 3\n'
