# ruff: noqa: E501
"""Chat templates for the tests: shapes that model families use, attacks, and a strategy for more attacks."""

from __future__ import annotations

from hypothesis import strategies as st

# Shapes that the published families use: made for this test, each with the constructs of its family.
TEMPLATES = {
    "turns": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "namespaces": """
{%- set ns = namespace(system='', count=0) %}
{%- for m in messages if m.role == 'system' %}{% set ns.system = ns.system ~ m.content %}{% endfor %}
{{- bos_token }}[{{ ns.system|trim }}]
{%- for m in messages|rejectattr('role', 'equalto', 'system') %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- set ns.count = ns.count + 1 %}
    {{- '\\n' if not loop.first }}<{{ m.role|upper }}:{{ loop.index }}/{{ loop.length }}>{{ m.content | trim }}
    {%- if loop.last %}{{ eos_token }}{{ ns.count }}{% endif %}
{%- endfor %}
""",
    "tools": """
{%- if tools %}{{ 'Tools:' }}{% for tool in tools %}
{{ tool | tojson }}
{{ tool.function.parameters | tojson(indent=4) }}
{%- for name, kind in tool.function.parameters.properties.items() %} {{ name }}={{ kind.type }}{% endfor %}
{% endfor %}{% endif %}
{%- macro show(m, deep=false) %}({{ m.role }}{% if deep %}, {{ caller() if caller else '' }}{% endif %}){% endmacro %}
{%- for m in messages[::-1] %}{{ show(m, deep=true) }}{% endfor %}
{%- set text %}{% for m in messages %}{{ m.content }}|{% endfor %}{% endset %}
{{ text.split('|')[0] }} {{ text.split('|') | length }} {{ messages[-1]['content'].startswith('1') }}
""",
    "generation": """
{% for m in messages %}
    {% if m.role == 'assistant' %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
    {% else %}
{{ m.content }}
        {% continue %}
    {% endif %}
end
{% endfor %}
{{ strftime_now("%Y") | length }} {{ 'a' in {'a': 1} }} {{ [1, 2, 3] | map('string') | join('-') }}
{{ "%s and %d" | format("x", 3) }} {{ "{}-{:>4}".format("a", 5) }} {{ messages | map(attribute='role') | unique | list }}
""",
}

NESTED = "{% set ns = namespace(v=[1, 2]) %}{% for i in range(60) %}{% set ns.v = [ns.v, ns.v] %}{% endfor %}"
TUPLES = NESTED.replace("[ns.v, ns.v]", "(ns.v, ns.v)").replace("[1, 2]", "(1, 2)")
DOUBLING = "{% set ns = namespace(v='ab') %}{% for i in range(60) %}{% set ns.v = ns.v + ns.v %}{% endfor %}"
WALL = "literal text " * 10_000

HOSTILE = {
    "product": "{{ 'a' * 10**10 }}",
    "product_reversed": "{{ 10000000000 * 'a' }}",
    "list_product": "{{ [1] * 10000000000 }}",
    "power": "{{ 9**9**9 }}",
    "power_variable": "{% set a = 9 %}{{ a**a**a }}",
    "factorial": "{% set ns = namespace(n=1) %}{% for i in range(1, 9999) %}{% set ns.n = ns.n * i %}{% endfor %}{{ ns.n }}",
    "range": "{% for i in range(10**12) %}x{% endfor %}",
    "range_wide": "{{ range(0, 10**30, 1) | length }}",
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "loops_filtered": "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
    "loops_in_filters": "{% for a in range(9999) %}{{ range(9999)|map('string')|select('eq', 'x')|list }}{% endfor %}",
    "loop_recursive": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "macro_tree": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "macro_forever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "call_forever": "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
    "doubling": DOUBLING + "{{ ns.v }}",
    "doubling_concat": DOUBLING.replace("+", "~") + "{{ ns.v|length }}",
    "doubling_format": DOUBLING.replace("ns.v + ns.v", "'{0}{0}'.format(ns.v)"),
    "doubling_percent": DOUBLING.replace("ns.v + ns.v", "'%s%s' % (ns.v, ns.v)"),
    "doubling_join": DOUBLING.replace("ns.v + ns.v", "[ns.v, ns.v]|join"),
    "doubling_join_method": DOUBLING.replace("ns.v + ns.v", "''.join([ns.v, ns.v])"),
    "doubling_replace": DOUBLING.replace("ns.v + ns.v", "ns.v|replace('a', 'aa')"),
    "doubling_set": DOUBLING.replace("{% set ns.v = ns.v + ns.v %}", "{% set x %}{{ ns.v }}{{ ns.v }}{% endset %}{% set ns.v = x %}"),
    "doubling_list": DOUBLING.replace("'ab'", "[1]") + "{{ ns.v|length }}",
    "replace_empty": "{{ ('a' * 9999).replace('', 'b' * 9999) }}",
    "replace_empty_filter": "{{ ('a' * 9999)|replace('', 'b' * 9999) }}",
    "join_wide": "{{ ('x' * 9999).join('y' * 9999) }}",
    "join_filter_wide": "{{ ('y' * 9999)|join('x' * 9999) }}",
    "center": "{{ 'a'|center(1000000000) }}",
    "center_method": "{{ 'a'.center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "indent_many": "{{ ('\n' * 999999)|indent(999) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent_star": "{{ '%*d' % (1000000000, 1) }}",
    "percent_filter": "{{ '%1000000000d'|format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format_nested": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format_precision": "{{ '{:.1000000000f}'.format(1.0) }}",
    "round": "{{ 1.5|round(1000000000, 'ceil') }}",
    "batch": "{{ [1]|batch(1000000000, 'x')|list }}",
    "slice": "{{ [1]|slice(1000000000)|list }}",
    "sum_lists": "{{ ([[1] * 999] * 9999)|sum(start=[]) }}",
    "nested_print": NESTED + "{{ ns.v }}",
    "nested_string": NESTED + "{{ ns.v|string|length }}",
    "nested_json": NESTED + "{{ ns.v|tojson|length }}",
    "nested_concat": NESTED + "{{ ('' ~ ns.v)|length }}",
    "nested_equal": NESTED + "{% set a = ns.v %}" + NESTED + "{{ a == ns.v }}",
    "nested_in": NESTED + "{% set a = ns.v %}" + NESTED + "{{ a in [ns.v] }}",
    "nested_test": NESTED + "{% set a = ns.v %}" + NESTED + "{{ a is eq(ns.v) }}",
    "nested_percent": NESTED + "{{ '%s' % [ns.v] }}",
    "nested_format": NESTED + "{{ '{}'.format(ns.v) }}",
    "nested_repr": NESTED + "{{ '{!r}'.format(ns.v) }}",
    "nested_join": NESTED + "{{ [ns.v]|join }}",
    "nested_upper": NESTED + "{{ ns.v|upper }}",
    "nested_trim": NESTED + "{{ ns.v|trim }}",
    "nested_map": NESTED + "{{ [ns.v]|map('string')|list|length }}",
    "nested_raise": NESTED + "{{ raise_exception(ns.v) }}",
    "nested_namespace": NESTED + "{{ ns }}",
    "nested_sort": NESTED + "{% set a = ns.v %}" + NESTED + "{{ [a, ns.v]|sort }}",
    "nested_index": NESTED + "{% set a = ns.v %}" + NESTED + "{{ [a].index(ns.v) }}",
    "nested_hash": TUPLES + "{{ {ns.v: 1} }}",
    "nested_hash_get": TUPLES + "{{ {}[ns.v] }}",
    "nested_hash_method": TUPLES + "{{ {}.get(ns.v) }}",
    "nested_hash_in": TUPLES + "{{ ns.v in {} }}",
    "nested_hash_unique": TUPLES + "{{ [ns.v]|unique|list }}",
    "nested_changed": NESTED + "{% for i in [1, 2] %}{{ loop.changed(ns.v) }}{% endfor %}",
    "cycle": "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
    "literal_text": "{% for i in range(9999) %}" + WALL + "{% endfor %}",
    "literal_text_captured": "{% set x %}{% for i in range(9999) %}" + WALL + "{% endfor %}{% endset %}",
    "literal_text_macro": "{% macro m() %}" + WALL + "{% endmacro %}{% for i in range(9999) %}{% set x = m() %}{% endfor %}",
    "slices": "{% set s = 'a' * 1000000 %}{% for i in range(9999) %}{% set x = s[1:] %}{% endfor %}",
    "kept_slices": "{% set ns = namespace(l=[], s='a' * 1000000) %}{% for i in range(9999) %}{% set ns.l = ns.l + [ns.s[1:]] %}{% endfor %}",
    "split": "{% set s = 'a ' * 400000 %}{% for i in range(9999) %}{% set x = s.split() %}{% endfor %}",
    "date": "{{ strftime_now('%9999999999Y' * 99) }}",
    "long_number": "{{ " + "9" * 10_000 + " }}",
    "deep_parens": "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
    "deep_lists": "{{ " + "[" * 5_000 + "]" * 5_000 + " }}",
    "deep_ifs": "{% if a %}" * 2_000 + "{% endif %}" * 2_000,
    "deep_fors": "{% for i in [1] %}" * 60 + "{% endfor %}" * 60,
    "long_sum": "{{ 1" + " + 1" * 5_000 + " }}",
    "long_filters": "{{ 1" + "|string" * 5_000 + " }}",
    "too_long": "x" * 300_000,
    "unfinished": "{% for m in messages %}",
    "unknown_filter": "{{ messages|pprint }}",
    "unknown_test": "{{ messages is wonderful }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "globals_attr": "{{ raise_exception|attr('__globals__') }}",
    "globals_map": "{{ [raise_exception]|map(attribute='__globals__')|list }}",
    "globals_format": "{{ '{0.__globals__}'.format(raise_exception) }}",
    "globals_format_map": "{{ '{a.__class__.__init__}'.format_map({'a': range}) }}",
    "globals_indirect": "{% set f = '{0.__class__}'.format %}{{ f(raise_exception) }}",
    "self_escape": "{{ self._TemplateReference__context.environment }}",
    "loop_escape": "{% for i in [1] %}{{ loop._iterable._meter }}{% endfor %}",
    "macro_escape": "{% macro m() %}{% endmacro %}{{ m._environment.meter }}",
    "class_method": "{{ dict.fromkeys(range(9), 1) }}",
    "namespace_class": "{{ namespace.__init__.__globals__ }}",
    "mutation": "{{ messages.append(1) }}",
    "mutation_clear": "{{ messages[0].clear() }}",
    "clock_escape": "{{ strftime_now.__self__._path }}",
}  # fmt: skip

atoms = st.sampled_from([
    "a", "1", "''", "'x'", "[a, a]", "(a, b)", "{'k': a}", "{a: b}", "a.b", "a['x']", "a[1:]", "ns.v", "loop", "range(99)",
    "messages", "a()", "a.upper()", "'{}'.format(a)", "'%s' % a", "a|string", "a|tojson", "a|list", "a|join(b)",
    "a|replace('', b)", "a * 99", "a + b", "a ** b", "a ~ b", "a == b", "a in b", "a is eq b", "namespace(v=a)",
    "a|map('string')|list", "a|sort", "a|batch(3)|list", "m(a)", "a|length", "-a", "a|int", "a|center(99)", "a|sum",
])  # fmt: skip
statements = st.one_of(
    atoms.map("{{{{ {} }}}}".format),
    st.tuples(st.sampled_from("ab"), atoms).map(lambda p: f"{{% set {p[0]} = {p[1]} %}}"),
    atoms.map(lambda e: f"{{% set ns.v = {e} %}}"),
)
blocks = st.recursive(
    statements,
    lambda inner: st.tuples(
        st.sampled_from(["{{% for b in range(50) %}}{}{{% endfor %}}", "{{% for a in {e} %}}{}{{% endfor %}}",
                         "{{% macro m(a) %}}{}{{% endmacro %}}", "{{% set a %}}{}{{% endset %}}",
                         "{{% if {e} %}}{}{{% endif %}}", "{{% for a in {e} recursive %}}{}{{{{ loop(a) }}}}{{% endfor %}}"]),
        st.lists(inner, min_size=1, max_size=4).map("".join), atoms,
    ).map(lambda p: p[0].format(p[1], e=p[2])),
    max_leaves=12,
)  # fmt: skip
