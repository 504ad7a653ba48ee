# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Sphinx configuration."""

project = 'nova-vgpu-mig'
copyright = 'The nova-vgpu-mig developers'
extensions = ['matplotlib.sphinxext.plot_directive', 'openstackdocstheme',
              'oslo_config.sphinxext']
plot_formats = ['svg']
plot_html_show_formats = False
plot_html_show_source_link = False
html_theme = 'openstackdocs'
# No repository to link to: the theme is told so, or it asks git for one.
openstackdocs_repo_name = 'nova-vgpu-mig'
openstackdocs_auto_name = False
openstackdocs_use_storyboard = False
openstackdocs_pdf_link = False
