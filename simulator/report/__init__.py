"""What runs of scenarios come to: figures, plots and a page. Pure: values in, bytes out.

``runs`` is what a report is about, ``document`` its JSON, ``figures`` and ``bands`` its numbers,
``plots`` its pictures, ``page`` the whole as one HTML page. Only ``drawing`` and what stands on it
needs matplotlib, so nothing is imported here.
"""
