"""What `mim download --dataset` does with the archives once it has them."""

import subprocess
import zipfile

import pytest
import yaml

from ..conftest import ROOT

INDEX = yaml.safe_load((ROOT / 'dataset-index.yml').read_text())
MEMBERS = {
    'Images/train2017': 'train2017/1.jpg',
    'Images/val2017': 'val2017/2.jpg',
    'Annotations/annotations_trainval2017': 'annotations/instances_val2017.json',
}


@pytest.fixture
def unpack(tmp_path):
    """Run the script as mim does; return the data's folder and what was said."""

    def run():
        data = tmp_path / 'coco'
        data.mkdir()
        script = ROOT / INDEX['coco2017']['script']
        done = subprocess.run(
            [script, tmp_path / 'down loaded', data],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return data, done.returncode, done.stderr

    for archive, member in MEMBERS.items():
        path = tmp_path / 'down loaded' / 'COCO_2017' / 'raw' / f'{archive}.zip'
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr(member, member)
    return run


def test_layout(unpack):
    data, code, said = unpack()
    assert code == 0, said
    files = {p.relative_to(data).as_posix() for p in data.rglob('*') if p.is_file()}
    assert files == set(MEMBERS.values())


def test_missing_archive(unpack, tmp_path):
    next(tmp_path.rglob('val2017.zip')).unlink()
    _, code, said = unpack()
    assert code == 1 and 'no val2017.zip in ' in said


def test_configs_look_there():
    (data,) = {entry['data_root'] for entry in INDEX.values()}
    assert f'under `{data}`' in (ROOT / 'docs/detectors.md').read_text()
