"""Stories and shared cases: folders of data, run by the tests beside them."""
