"""Chapters compute less when they are tested: cell -> what it says -> what is run instead. The
same lines, and the same checks hold.
As they stand they run when outputs are saved, and, where something moves, in JupyterLab
(tests/test_lab.py)."""

LESS = {
    # 05_reverse
    '6b4b182b': {'points = swiss_roll(400)': 'points = swiss_roll(100)'},
    '9e263ddc': {'n, data = 20_000': 'n, data = 14_000'},
    # 06_vlb
    '39eca8db': {'n, few = 20_000': 'n, few = 6_000'},
    'd823f0cf': {
        'Schedule.linear()),': 'Schedule.linear(300, 3e-4, .06)),',
        'Schedule.cosine()),': 'Schedule.cosine(300)),',
        'world.sample(4000,': 'world.sample(400,'},
    '9117c78f': {'images[::18]': 'images[::60]'},
    '187a3bbb': {'800, 1600, 3200]': '800, 3200]'},
    # 07_simple_loss
    '07a00002': {'Mixture(s, x_0), 20_000': 'Mixture(s, x_0), 5_000'},
    # 08_unet
    'c08a0013': {'steps=150': 'steps=75', '[1000:]': '[1100:]'},
    # 09_denoiser
    '09de0021': {'steps=3000': 'steps=500'},
    '09de0034': {'n=400': 'n=200'},
    '09de0045': {'range(300)': 'range(120)'},
    # 10_training
    '3ad7377d': {'range(300)': 'range(80)'},
    'a5f00002': {'batches=4000': 'batches=1000', '4000**.5': '1000**.5'},
    '3864bc2c': {
        'train_slopes(net, 3000': 'train_slopes(net, 2000', 'step, 3000': 'step, 2000'},
    # workshop/05_runs
    'aa743561': {'small_run(200': 'small_run(120', 'save_every=100': 'save_every=60'},
    'b72ec7b1': {
        "small_run(90, out=tmp/'whole')": "small_run(30, out=tmp/'whole')",
        "small_run(90, out=tmp/'b', save_every=41, on_save=Stop(41))":
            "small_run(30, out=tmp/'b', save_every=14, on_save=Stop(14))",
        "small_run(90, out=tmp/'b', resume=True, save_every=30)":
            "small_run(30, out=tmp/'b', resume=True, save_every=10)"},
    'faccfe88': {
        "small_run(90, out": "small_run(30, out", 'Recipe(steps=90': 'Recipe(steps=30'},
    '7a1d0006': {'small_run(320, data': 'small_run(320 if data is few else 20, data'},
    '7a1d0022': {'replace(r, batch=32)': 'replace(r, batch=32), steps=50'},
    # workshop/07_doctor
    'bc9c4e70': {'examine(10, 8)': 'examine(10, 4)'},
    '91c06578': {'diagnose(ddpm, digits)': 'diagnose(ddpm, digits, samples=6)'},
    '1546b596': {'diagnose(ddpm, inverted)': 'diagnose(ddpm, inverted, samples=6)'},
    # 11_sampling
    '88a38003': {
        'noise = Noise(range(16)': 'noise = Noise(range(6)',
        'as_printed(Noise(range(16)': 'as_printed(Noise(range(6)'},
    '6d28c6ef': {'sample(40': 'sample(10'},
    'eaeff853': {'(3, 5, 10, 25, 100)': '(3, 10, 25)'},
    'a6b8ef56': {'free.states(64)': 'free.states(10)', '[:40]': '[:10]'},
    '968e6492': {'range(40)': 'range(10)'},
    'f3cc0608': {'for S in (5, 10, 20, 50, 100)': 'for S in (5, 10, 20, 50)'},
    'e77e321d': {'n, counts, cloud = 5000': 'n, counts, cloud = 2000'},
    # 12_conditional
    'f46da528': {'ddpm, (100, 75, 50, 25)': 'ddpm, (100, 25)'},
    'ad971d62': {'(100, 80, 60, 50, 40, 25, 10), 64, 2)': '(100, 60, 25, 10), 24, 2)'},
    '80bccbd5': {'expand(64': 'expand(16', 'tau, 64)': 'tau, 16)'},
    '25526263': {
        "'ddpm', 25), rounds": "'ddpm', 12), rounds",
        "using('ddpm', 25)": "using('ddpm', 12)"},
    '0e799980': {'(5, 1), (10, 1), (20, 1), (10, 10)': '(5, 1), (20, 1), (2, 10)'},
    '46626391': {'(1, 5, 10, 20)': '(1, 5, 20)'},
    '27586aec': {'for k in range(10)': 'for k in range(3)'},
    'a1200021': {
        "'early': (4, (50, T)), ": '', "\n    'late': (4, (1, 49)), 'w = 1': (1, None)": '',
        '50, w, times, batch=50)': '20, w, times, batch=20)'},
    '3f2293ef': {'draw(quick, 50, w, batch=50)': 'draw(quick, 20, w, batch=20)'},
    # workshop/03_model
    '3d000015': {'ddpm.sample(40,': "ddpm.using('ddpm', 20).sample(10,"},
    '3d000020': {'ddpm.progressive': "ddpm.using('ddpm', 20).progressive"},
    '3d000027': {'for k in range(10)]': 'for k in range(4)]'},
    # 13_interpolation
    'fb3efa59': {'n, g, train = 64': 'n, g, train = 40'},
    'c2c3a27d': {'ddpm.strip': 'quick.strip'},
    'f39ce6c6': {
        "'ddim', 50": "'ddim', 20", 'ddpm.strip(pair, T//2': 'quick.strip(pair, T//2',
        'ddpm.strip(pair, T,': 'quick.strip(pair, T,'},
    'cf7c34bd': {'for k in (5, 10, 20, 50, 100)': 'for k in (5, 10, 20, 50)'},
    # 14_swiss_roll
    '70f27077': {'test[:2000]': 'test[:400]', '(1/T, 1e-3, 1e-5, 1e-6)': '(1/T, 1e-6)'},
    '4c6cc5dc': {'n=1000': 'n=500'},
    # 15_heartbeat
    '335370ab': {'20 if tiny else 10_000': '8 if tiny else 10_000',
        '20 if tiny else 2000': '8 if tiny else 2000'},
    # 16_generative_models
    '16a00002': {'RATES = 3e-4, 1e-3, 3e-3, 1e-2, 3e-2': 'RATES = 1e-3, 3e-3, 1e-2'},
    '16a00003': {'times=4': 'times=1'},
    # 17_evaluation
    '17f00003': {".sample(500)": '.sample(60)'},
    '17d00012': {'draws, g = 50,': 'draws, g = 15,'},
    '17d00002': {'runs = torch.Generator().manual_seed(4), 200':
        'runs = torch.Generator().manual_seed(4), 40'},
    '17c9d176': {'(10, 25, 50)': '(10, 25)', 'range(8)': 'range(2)'},
    '382c4c39': {'[::6]': '[::12]', '[::14]': '[::48]'},
    '17cabae0': {'progressive(300)': 'progressive(150)'},
    # 20_cifar10
    'c2000009': {
        'best.progressive(16 if tiny': "ddpm.using('ddpm', 20).progressive(8 if tiny"},
    'c2000206': {'.sample(2*k)': '.sample(2*k, batch=2*k)'},
    # 22_detail_and_colour
    'c2200005': {'steps=600,': 'steps=250, batch=32,'},
    'c2200006': {
        'by_lot(300, 1)': 'by_lot(200, 1)',
        'painter.given': "painter.using('ddpm', 25).given"},
    'c2200012': {"'40',": "'10',"},
    'c2200014': {'min(50, ddpm': 'min(10, ddpm'},
    # workshop/09_export
    'e0a00019': {'((False, 1e-4), (True, 2e-2))': '((True, 2e-2),)'},
    # workshop/10_cli
    '8309a146': {'{12: 80, 24: 140}': '{12: 60}'},
    'b7a10021': {'--n 12': '--n 2'},
    'd0c70003': {'doctor digits --out': 'doctor digits --samples 6 --out'},
    '396ddc6c': {
        '--steps 100 --batch': '--steps 20 --batch',
        '--resume --steps 110': '--resume --steps 24'},
}

def shorten(nb):
    "Of a notebook that was read"
    for cell in nb.cells:
        for long, short in LESS.get(cell.id, {}).items():
            if cell.source.count(long)!=1:
                raise ValueError(f'tests/less.py: cell {cell.id} does not say {long!r} once')
            cell.source = cell.source.replace(long, short)
