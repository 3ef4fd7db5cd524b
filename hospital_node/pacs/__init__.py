"""A hospital's PACS: asked, never written to.

``peer`` says what a PACS is asked, ``dicomweb`` and ``dimse`` ask it over HTTP and over DIMSE; ``admission``
looks at what comes, ``store`` keeps what was admitted and de-identified, ``fetching`` goes through a query.
"""
