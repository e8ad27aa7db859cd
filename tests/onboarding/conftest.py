"""A home for tests that need no MLflow."""

import pytest

from backends.settings import Settings


@pytest.fixture
def home(tmp_path):
    """Settings of an empty home; MLflow is not needed here."""
    settings = Settings(home=tmp_path / "home", models=tmp_path / "models", threads=2)
    settings.models.mkdir()
    return settings
