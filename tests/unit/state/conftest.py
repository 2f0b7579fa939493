"""What these tests write lies in memory."""

from tests.memory import tmp_path

__all__ = ["tmp_path"]
