from importlib import import_module

def __getattr__(name: str):
    "A module, when it is asked for: to import this package loads no torch"
    try: return import_module(f'.{name}', __name__)
    except ModuleNotFoundError as e:
        if e.name!=f'{__name__}.{name}': raise   # it is there, but not what it needs
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
