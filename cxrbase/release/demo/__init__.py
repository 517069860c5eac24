"""A page on this machine that shows what a model makes of one radiograph."""
