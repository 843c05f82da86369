"""The chat's page in Gradio: layout, handlers, texts. Importing it needs the extra `chat`."""
