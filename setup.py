from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
here = Path(__file__).parent
cp = ConfigParser(delimiters=['='])
cp.read(here/'settings.ini', encoding='utf-8')
c = cp['DEFAULT']
lib = c['lib_name']

class WithBook(build_py):
    """The chapters go into the wheel, for `ddpm_lit notebooks`; an editable install has them
    beside the package"""
    def run(self):
        super().run()
        if self.editable_mode: return
        for folder in ('.', 'workshop'):
            to = Path(self.build_lib)/lib/'notebooks'/folder
            self.mkpath(str(to))
            for p in (here/c['nbs_path']/folder).iterdir():
                if p.is_file(): self.copy_file(str(p), str(to/p.name))

setup(
    name=lib,
    version=c['version'],
    description=c['description'],
    keywords=c['keywords'].split(),
    author=c['author'],
    author_email=c['author_email'],
    url=c['git_url'],
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>='+c['min_python'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[lib, lib+'.*']),
    package_data={lib: [
        'book.mplstyle', 'drawing.js', 'living/*.js', 'models/*/*', 'models/*/*/*',
        'workshop/reached.json']},
    cmdclass={'build_py': WithBook},
    install_requires=c['requirements'].split(),
    extras_require={
        k: c[f'{k}_requirements'].split() for k in ('dev', 'notebooks', 'hub', 'onnx')},
    classifiers=[
        'Programming Language :: Python :: 3',
        'Intended Audience :: Science/Research',
        'Intended Audience :: Education',
        'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    entry_points={
        'console_scripts': [f'{lib}={lib}.workshop.cli:main'],
        'nbdev': [f'{lib}={lib}._modidx:d'],
        'ddpm_lit.networks': [
            f'UNet={lib}.unet:UNet',
            f'DiT={lib}.denoiser:DiT',
            f'FromDiffusers={lib}.workshop.weights:FromDiffusers']})
