"""How a long-context model is served: the command, and whether a server reads it as it was trained."""

from ultralong_hf.serving.config import ServeConfig, serve_config

__all__ = ["ServeConfig", "serve_config"]
