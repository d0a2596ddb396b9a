// A black square of 32 x 32 cells to draw in: chapter 02
export default { render({ model, el }) {
  const n = 32, k = 6;
  const canvas = document.createElement('canvas'), wipe = document.createElement('button');
  const ink = canvas.getContext('2d');
  let cells, x = 9, y = 4, down = false;

  const show = () => {
    cells.forEach((on, i) => {
      ink.fillStyle = on ? 'white' : 'black';
      ink.fillRect(i%n*k, Math.floor(i/n)*k, k, k);
    });
    ink.strokeStyle = down ? 'red' : 'gray';
    ink.strokeRect(x*k, y*k, k, k);
  };
  const read = () => {
    const v = model.get('value');
    cells = new Uint8Array(v.buffer, v.byteOffset, n*n).slice();
    show();
  };
  const send = () => {
    model.set('value', new DataView(cells.slice().buffer));
    model.save_changes();
  };
  const clear = () => {
    cells.fill(0);
    show();
    send();
  };

  const clip = v => Math.max(0, Math.min(n-1, v));
  const dot = () => {
    for (const i of [-1, 0, 1])
      for (const j of [-1, 0, 1]) cells[clip(y+j)*n + clip(x+i)] = 1;
  };
  const go = (to_x, to_y, draw) => {
    const from_x = x, from_y = y, right = clip(to_x)-x, below = clip(to_y)-y;
    const steps = Math.max(Math.abs(right), Math.abs(below), 1);
    for (let s = 1; s<=steps; s++) {
      x = Math.round(from_x+right*s/steps);
      y = Math.round(from_y+below*s/steps);
      if (draw) dot();
    }
    show();
  };
  const mouse = (e, draw) => {
    const r = canvas.getBoundingClientRect();
    const cell = (at, size) => Math.floor(at/size*n);
    go(cell(e.clientX-r.left, r.width), cell(e.clientY-r.top, r.height), draw);
  };
  canvas.onpointerdown = e => {
    canvas.setPointerCapture(e.pointerId);
    mouse(e, false);
    mouse(e, true);
  };
  canvas.onpointermove = e => { if (canvas.hasPointerCapture(e.pointerId)) mouse(e, true); };
  canvas.onpointerup = send;

  const arrows = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  const pen = () => {
    down = !down;
    if (down) {
      dot();
      send();
    }
    show();
  };
  canvas.onkeydown = e => {
    if (arrows[e.key]) {
      go(x+arrows[e.key][0], y+arrows[e.key][1], down);
      if (down) send();
    }
    else if (e.key===' ') pen();
    else if (e.key==='Delete' || e.key==='Backspace') clear();
    else return;
    e.preventDefault();
  };

  canvas.width = canvas.height = n*k;
  canvas.tabIndex = 0;
  canvas.style.touchAction = 'none';
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-label', 'Square to draw in: arrow keys move the pen, '
    + 'space lifts and lowers it, delete wipes');
  wipe.textContent = 'wipe';
  wipe.onclick = clear;
  el.dataset.lmSuppressShortcuts = 'true';   // JupyterLab leaves the keys to us
  model.on('change:value', read);
  read();
  el.append(canvas, document.createElement('br'), wipe);
} }
