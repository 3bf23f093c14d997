"""Reports: run folders read, compared by one rule, and told as tables, pictures and a page."""
