"""The table of chapter workshop/03: one thing is changed, and everything else goes along, or
says that it does not. Each of its cells is a test."""
import re
import nbformat, numpy as np, pytest, torch
from diffusers import UNet2DModel
from torch.utils.data import TensorDataset
from ddpm_lit import DDPM, Schedule
from ddpm_lit.data import Images, digits, to_model
from ddpm_lit.denoiser import DiT, half
from ddpm_lit.workshop.cli import main
from ddpm_lit.workshop.doctor import diagnose
from ddpm_lit.workshop.recipe import Recipe
from ddpm_lit.workshop.runs import design, train
from conftest import root
from readme import readme

def table() -> dict[str, dict[str, str]]:
    "What is changed -> column -> cell"
    cells = nbformat.read(root/'nbs'/'workshop'/'03_model.ipynb', 4).cells
    text, = (c.source for c in cells if c.source.startswith('## To change one thing'))
    lines = text.splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')]
        for line in lines if line.startswith('|')]
    return {re.sub(r' \(.*', '', row[0]): dict(zip(head[1:], row[1:])) for row in rows}

TABLE = table()
SHAPE, FEW = (1, 8, 8), dict(steps=4, batch=8, lr=1e-3, warmup=1)
PIXELS = to_model(digits()[:200])

def halved(x): return torch.nn.functional.avg_pool2d(x, 2)

class Changed:
    "A small model on which the line of a row was tried, and its data and recipe"
    def __init__(self, row: str):
        line = TABLE[row]['what you write'].strip('`')
        torch.manual_seed(0)
        self.ddpm, self.data, self.recipe = design('tiny', SHAPE)[0], digits(), Recipe(**FEW)
        names = dict(design=design, shape=SHAPE, DDPM=DDPM, DiT=DiT, Schedule=Schedule,
            TensorDataset=TensorDataset, x=PIXELS, train=lambda ddpm, data: data,
            y=halved(PIXELS[:1])[0], operator=halved, ddpm=self.ddpm,
            Recipe=lambda **kw: Recipe(**FEW, **kw))
        made = eval(line, names)
        if isinstance(made, Recipe): self.recipe = made
        elif isinstance(made, DDPM): self.ddpm = made
        elif isinstance(made, tuple): self.ddpm, _ = made
        else: self.data = made

def resume(c: Changed, folder):
    "A run that was stopped goes on as if it had not been, and its folder is read"
    def again(): return Changed(c.row)
    whole = train(again().ddpm, c.data, c.recipe, out=folder/'whole')
    half_way = Recipe(**{**vars(c.recipe), 'steps': 2})
    train(again().ddpm, c.data, half_way, out=folder/'run')
    ended = train(again().ddpm, c.data, c.recipe, out=folder/'run', resume=True)
    weights = ended.unet.state_dict()
    for k, v in whole.unet.state_dict().items(): assert v.equal(weights[k]), k
    read = DDPM.from_pretrained(folder/'run')
    assert (read.predicts, read.picture)==(c.ddpm.predicts, c.ddpm.picture)

def doctor(c: Changed, folder):
    names = {f.name for f in diagnose(c.ddpm, c.data, n=40, samples=4).findings}
    assert {'number', 'loss'}<=names

def pixels(images): return torch.as_tensor(np.asarray(images[:])).flatten(1).float()[:, :16]

def evaluate(c: Changed, folder):
    ddpm, test = c.ddpm.using(c.ddpm.sampler, c.ddpm.steps or 3), digits('test')
    if ddpm.picture: ddpm = ddpm.given(ddpm.shown(to_model(test[:40])))
    q = ddpm.evaluate(test, digits(), n=40, net=pixels)
    assert np.isfinite(q.distance)

def command(c: Changed, folder):
    said = TABLE[c.row]['command'].strip('`')
    options = [] if said=='yes' or said.startswith('--sampler') else said.split()
    data, run = 'digits', folder/'run'
    if said=='x.npy':
        data, options = str(folder/said), ['--range', '-1,1']
        np.save(data, PIXELS.numpy())
    more = '--preset tiny --steps 2 --batch 8 --tracker none'.split()
    if said=='yes': c.ddpm.save_pretrained(run)   # a network of one's own is trained in Python
    else: assert main(['train', data, '--out', str(run), *more, *options])==0
    draw = said.split() if said.startswith('--sampler') else []
    if c.ddpm.picture:
        from PIL import Image
        Image.fromarray(digits().images[0, 0]).save(folder/'one.png')
        draw = ['--given', str(folder/'one.png')]
    few = '--n 2 --steps 3'.split()
    drawn = ['sample', str(run), '--out', str(folder/'x.png'), *few, *draw]
    assert main(drawn)==0 and (folder/'x.png').exists()

def diffusers(c: Changed, folder):
    "Its network answers as ours"
    c.ddpm.save_pretrained(folder)
    net, t = UNet2DModel.from_pretrained(folder, subfolder='unet'), torch.tensor([1, 50])
    x, told = torch.randn(2, *SHAPE), []
    if c.ddpm.picture: told = [half(x)]
    with torch.no_grad():
        ours = c.ddpm.eval().unet(x, t, *told)
        theirs = net(torch.cat([x, *told], 1), t-1).sample
    assert (ours-theirs).abs().max()<1e-5

COLUMNS = dict(resume=resume, doctor=doctor, evaluate=evaluate, command=command,
    diffusers=diffusers)

def test_table_is_whole():
    assert len(TABLE)==7
    for cells in TABLE.values(): assert cells.keys()=={'what you write', *COLUMNS}

@pytest.mark.parametrize('column', COLUMNS)
@pytest.mark.parametrize('row', TABLE)
def test_cell(row, column, tmp_path):
    c = Changed(row)
    c.row = row
    if TABLE[row][column]!='no':
        COLUMNS[column](c, tmp_path)
    elif column=='command':
        assert not any(word in readme() for word in ('--measured', '--operator'))
    else:
        with pytest.raises((ValueError, OSError, RuntimeError)): COLUMNS[column](c, tmp_path)
