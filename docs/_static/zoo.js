// Sorts and filters the table of the models page, and draws the chart from its rows.
(function () {
  'use strict'
  const zoo = document.querySelector('.zoo')
  if (!zoo) return

  const MARGIN = { left: 52, right: 16, top: 12, bottom: 44 }
  const COLUMNS = { params: 1, flops: 2, paper: 3, timm: 4, ms: 5 }
  const AXES = {
    params: 'Parameters, millions',
    flops: 'FLOPs, millions',
    ms: 'Milliseconds in ONNX Runtime, one thread'
  }
  const svg = zoo.querySelector('svg')
  const body = zoo.querySelector('tbody')
  const search = zoo.querySelector('input[type=search]')
  const onlyReleased = zoo.querySelector('input[type=checkbox]')
  const axis = zoo.querySelector('select')
  const chosen = zoo.querySelector('output')
  const headers = [...zoo.querySelectorAll('th')].filter(th => th.querySelector('button'))

  function value (row, column) {
    const text = row.cells[column].dataset.value
    return column === 0 || text === '' ? text : Number(text)
  }

  // Empty cells stay last in both directions.
  function sortBy (column, descending) {
    const rows = [...body.rows]
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)]
      if (x === '' || y === '') return (x === '') - (y === '')
      const order = column === 0 ? x.localeCompare(y) : x - y
      return descending ? -order : order
    })
    body.append(...rows)
  }

  headers.forEach((th, column) => {
    th.querySelector('button').addEventListener('click', () => {
      const descending = th.getAttribute('aria-sort') === 'ascending'
      headers.forEach(other => other.removeAttribute('aria-sort'))
      th.setAttribute('aria-sort', descending ? 'descending' : 'ascending')
      sortBy(column, descending)
    })
  })

  function element (name, attributes, parent) {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name)
    for (const [key, text] of Object.entries(attributes)) made.setAttribute(key, text)
    parent.append(made)
    return made
  }

  function ticks (low, high) {
    const rough = (high - low) / 4
    const power = 10 ** Math.floor(Math.log10(rough))
    const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= rough)
    const found = []
    for (let x = Math.ceil(low / step) * step; x <= high; x += step) found.push(x)
    return found
  }

  // The shapes tell the families apart where colours do not.
  function mark (family, x, y, parent) {
    const shapes = {
      v1: ['rect', { x: x - 6, y: y - 6, width: 12, height: 12 }],
      v2: ['circle', { cx: x, cy: y, r: 7 }],
      v3: ['path', { d: `M${x} ${y - 9} l9 15 h-18 z` }],
      other: ['path', { d: `M${x} ${y - 7} l7 7 l-7 7 l-7 -7 z` }]
    }
    const [name, attributes] = shapes[family]
    element(name, { ...attributes, class: 'mark' }, parent)
  }

  function choose (row) {
    const line = row.dataset.line
    if (!line) {
      chosen.textContent = `${row.dataset.name} is not a network of this package.`
      return
    }
    chosen.textContent = line
    if (navigator.clipboard) {
      navigator.clipboard.writeText(line).then(
        () => { chosen.textContent = `Copied: ${line}` },
        () => {} // not allowed: the line can still be selected
      )
    }
  }

  function draw () {
    // One unit is one pixel, so that the text has its size on a telephone, too.
    const WIDTH = svg.clientWidth || 720
    const HEIGHT = Math.max(300, Math.min(420, WIDTH * 0.56))
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`)
    svg.replaceChildren()
    const key = axis.value
    const points = [...body.rows]
      .filter(row => !row.hidden)
      .map(row => ({ row, x: value(row, COLUMNS[key]), y: row.dataset.top1 }))
      .filter(point => point.x !== '' && point.y !== '')
      .map(point => ({ ...point, y: Number(point.y) }))
    if (!points.length) return
    const range = name => {
      const all = points.map(point => point[name])
      const [low, high] = [Math.min(...all), Math.max(...all)]
      const pad = (high - low) * 0.06 || 1
      return [low - pad, high + pad]
    }
    const [x0, x1] = range('x')
    const [y0, y1] = range('y')
    const right = WIDTH - MARGIN.right
    const bottom = HEIGHT - MARGIN.bottom
    const sx = x => MARGIN.left + (x - x0) / (x1 - x0) * (right - MARGIN.left)
    const sy = y => bottom - (y - y0) / (y1 - y0) * (bottom - MARGIN.top)
    for (const x of ticks(x0, x1)) {
      element('line', { x1: sx(x), x2: sx(x), y1: MARGIN.top, y2: bottom, class: 'grid' }, svg)
      element('text', { x: sx(x), y: bottom + 18, 'text-anchor': 'middle' }, svg).textContent = +x.toFixed(6)
    }
    for (const y of ticks(y0, y1)) {
      element('line', { x1: MARGIN.left, x2: right, y1: sy(y), y2: sy(y), class: 'grid' }, svg)
      element('text', { x: MARGIN.left - 8, y: sy(y) + 4, 'text-anchor': 'end' }, svg).textContent = +y.toFixed(6)
    }
    element('text', { x: (MARGIN.left + right) / 2, y: HEIGHT - 4, 'text-anchor': 'middle' }, svg).textContent = AXES[key]
    const middle = (MARGIN.top + bottom) / 2
    element('text', { x: 14, y: middle, 'text-anchor': 'middle', transform: `rotate(-90 14 ${middle})` }, svg).textContent = 'Top-1 on ImageNet, %'
    for (const { row, x, y } of points) {
      const { family, name, line } = row.dataset
      const group = element('g', {
        class: `point ${family}`,
        tabindex: 0,
        role: 'button',
        'aria-label': `${name}: ${y} %, ${AXES[key]} ${x}`,
        'data-line': line
      }, svg)
      mark(family, sx(x), sy(y), group)
      const left = sx(x) > WIDTH / 2
      element('text', {
        x: sx(x) + (left ? -12 : 12),
        y: sy(y) - 10,
        'text-anchor': left ? 'end' : 'start',
        class: 'label'
      }, group).textContent = `${name}, ${y} %`
      const raise = () => { if (svg.lastChild !== group && document.activeElement !== group) svg.append(group) }
      group.addEventListener('mouseenter', raise)
      group.addEventListener('click', () => choose(row))
      group.addEventListener('keydown', event => {
        if (event.key === 'Enter' || event.key === ' ') {
          event.preventDefault()
          choose(row)
        }
      })
    }
  }

  function filter () {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean)
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase()
      row.hidden = !words.every(word => text.includes(word)) ||
        (onlyReleased.checked && !row.dataset.line)
    }
    draw()
  }

  search.addEventListener('input', filter)
  onlyReleased.addEventListener('change', filter)
  axis.addEventListener('change', draw)
  window.addEventListener('resize', draw)
  draw()
})()
