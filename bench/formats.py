"""How fast this machine convolves in float32 and in bfloat16. `python -m bench.formats`

It is why `has_bf16_units` (workshop 02) asks Intel's CPUs for AMX: with AVX-512 BF16 alone,
float32 was the faster of the two there; on AMD's it was not."""
import time
from statistics import median

SHAPES = (32, 32), (64, 16), (128, 16)   # channels and side of the maps of the preset `small`
BATCH, REPEATS = 16, 30


def gflops(channels: int, side: int, dtype) -> float:
    "What a 3 x 3 convolution reaches, pixels last"
    import torch
    last = dict(dtype=dtype, memory_format=torch.channels_last)
    x = torch.randn(BATCH, channels, side, side).to(**last)
    convolve = torch.nn.Conv2d(channels, channels, 3, padding=1).to(**last)

    def seconds() -> float:
        start = time.perf_counter()
        convolve(x)
        return time.perf_counter()-start

    with torch.inference_mode():
        took = [seconds() for _ in range(REPEATS)]
    return 2*BATCH*9*channels**2*side**2/median(took)/1e9


def main():
    import torch
    units = [name for name, there in torch.cpu.get_capabilities().items() if there is True]
    print('units:', ', '.join(units))
    for channels, side in SHAPES:
        for dtype in torch.float32, torch.bfloat16:
            reached = gflops(channels, side, dtype)
            print(f'{channels:>4} channels, {side} x {side}, {dtype}: {reached:.0f} GFLOP/s')


if __name__ == '__main__':
    main()
