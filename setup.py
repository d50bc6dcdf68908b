"""For tools that take a setup.py, such as Dataflow's --setup_file. What is in it stands in pyproject.toml."""

from setuptools import setup

setup()
