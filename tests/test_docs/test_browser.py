"""The models page in headless Chromium: sorting, filters, keyboard, narrow screens."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
# What a user does, and what the page shows then. It runs after the page's own script.
SCRIPT = """
const errors = []
addEventListener('error', event => errors.push(event.message))
console.error = (...words) => errors.push(words.join(' '))
addEventListener('load', () => {
  const rows = () => [...document.querySelectorAll('.zoo-table tbody tr')]
  const shown = () => rows().filter(row => row.offsetParent !== null)
  const column = index => shown().map(row => row.cells[index].dataset.value)
  const heading = text => [...document.querySelectorAll('.zoo-table th button')]
    .find(button => button.textContent.startsWith(text))
  const points = () => [...document.querySelectorAll('.zoo-chart .point')]
  const type = text => {
    const input = document.querySelector('.zoo input[type=search]')
    input.value = text
    input.dispatchEvent(new Event('input'))
  }
  const found = { errors, names: column(0), points: points().length }
  found.width = innerWidth
  found.overflow = document.documentElement.scrollWidth - innerWidth
  heading('FLOPs').click()
  found.ascending = column(2)
  found.sort = heading('FLOPs').closest('th').getAttribute('aria-sort')
  heading('FLOPs').click()
  found.descending = column(2)
  heading('Top-1, timm').click()
  found.timm = column(4)
  type('ghostnetv2_1')
  found.filtered = column(0)
  found.filteredPoints = points().length
  const point = points()[0]
  point.focus()
  found.focused = document.activeElement === point
  const label = point.querySelector('.label')
  found.label = label.textContent
  found.visible = getComputedStyle(label).visibility
  found.left = label.getBoundingClientRect().left
  found.right = innerWidth - label.getBoundingClientRect().right
  point.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }))
  found.chosen = document.querySelector('.zoo output').textContent
  type('no such network')
  found.none = shown().length + points().length
  type('')
  document.querySelector('.zoo input[type=checkbox]').click()
  found.released = column(0)
  const axis = document.querySelector('.zoo select')
  axis.value = 'ms'
  axis.dispatchEvent(new Event('change'))
  found.axis = document.querySelector('.zoo-chart').textContent
  parent.postMessage(JSON.stringify(found), '*')
})
"""
# Windows have at least 500 pixels, frames may be narrower.
FRAME = """<!doctype html><pre id="result"></pre><script>
addEventListener('message', event => {
  document.getElementById('result').textContent = event.data
})
</script><iframe src="models.html" width="%d" height="900" frameborder="0"></iframe>
"""


@pytest.fixture(scope='module', params=[1280, 380])
def found(request, site, tmp_path_factory):
    """What the script saw at a width of the window in pixels."""
    if not CHROMIUM:
        pytest.skip('needs Chromium: apt install chromium')
    folder = tmp_path_factory.mktemp('page')
    (folder / '_static').symlink_to(site / '_static')
    page = (site / 'models.html').read_text(encoding='utf-8')
    page = page.replace('<head>', f'<head><script>{SCRIPT}</script>', 1)
    (folder / 'models.html').write_text(page, encoding='utf-8')
    command = [CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu']
    command += [f'--user-data-dir={folder / "profile"}', '--enable-logging=stderr']
    command += ['--window-size=1400,1000', '--virtual-time-budget=5000']
    (folder / 'frame.html').write_text(FRAME % request.param, encoding='utf-8')
    command += ['--dump-dom', (folder / 'frame.html').as_uri()]
    done = subprocess.run(
        command, text=True, capture_output=True, timeout=120, check=True
    )
    assert not re.findall(r'.*CONSOLE.*', done.stderr)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    found = json.loads(html.unescape(result[1]))
    assert found['width'] == request.param
    return found


def test_table_and_chart(found):
    assert found['errors'] == []
    assert found['overflow'] <= 0  # the page does not scroll sideways
    assert found['points'] == len(found['names']) > 15


def test_sorting(found):
    numbers = [float(x) for x in found['ascending']]
    assert numbers == sorted(numbers) and len(set(numbers)) > 10
    assert found['sort'] == 'ascending'
    assert [float(x) for x in found['descending']] == numbers[::-1]
    known = [float(x) for x in found['timm'] if x]
    assert known == sorted(known)
    assert [bool(x) for x in found['timm'][: len(known)]] == [True] * len(known)


def test_filter(found):
    names = [name for name in found['names'] if name.startswith('ghostnetv2_1')]
    assert sorted(found['filtered']) == sorted(names)
    assert len(names) == found['filteredPoints'] == 3
    assert found['none'] == 0
    assert set(names) < set(found['released']) < set(found['names'])
    assert 'Milliseconds' in found['axis']


def test_keyboard(found):
    assert found['focused'] and found['visible'] == 'visible'
    assert found['label'].startswith('ghostnetv2_1')
    assert min(found['left'], found['right']) >= 0
    assert "type='GhostNetV2'" in found['chosen']
    assert "checkpoint='ghostnet://ghostnetv2-1" in found['chosen']
