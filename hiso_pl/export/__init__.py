"""A checkpoint's model or adapter as a Hugging Face folder."""
