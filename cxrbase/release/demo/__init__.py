"""A local web page that shows what a model makes of one radiograph."""
